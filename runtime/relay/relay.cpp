#include "runtime/relay/relay.hpp"

#include <chrono>
#include <map>
#include <optional>
#include <utility>
#include <variant>

#include <unistd.h>

#include "kernels/fault.hpp"

namespace baton {

relay::relay(std::string node, relay_log& log, messenger* network, std::function<void(relay_report)> report)
    : node_(std::move(node)),
      log_(log),
      network_(network),
      report_(std::move(report)),
      logic_(network ? network->address() : std::string()) {
  if (network_) network_->listen(this);
}

relay::~relay() {
  if (network_) network_->listen(nullptr);
}

relay_ready relay::joins() {
  const std::lock_guard lock(mutex_);
  return {node_, log_.bytes_max(), network_ ? network_->address() : std::string(), ::getpid(), logic_.joins()};
}

// ---- what the coordinator says ----

void relay::coordinator_said(const relay_command& command, std::uint64_t generation) {
  std::optional<std::vector<job_id>> untold;
  {
    const std::lock_guard lock(mutex_);
    untold = logic_.heeds(generation);
    if (!untold) return;
  }
  for (const job_id run : *untold) coordinator_said_this(release_log{run});
  std::visit([this](const auto& c) { coordinator_said_this(c); }, command);
}

void relay::tell_damages_again() {
  std::unique_lock lock(mutex_);
  logic_.tells_damages_again();
  auto actions = logic_.take_actions();
  lock.unlock();
  perform(std::move(actions));
}

void relay::coordinator_said_this(const reserve_log& command) {
  std::vector<relay_action> actions;
  try {
    const bool fits = log_.reserve(command.job, command.bytes);
    const std::int64_t bytes_free = log_.bytes_max() - log_.bytes_reserved();
    const std::lock_guard lock(mutex_);
    fits ? logic_.log_reserved_for(command) : logic_.log_refused_for(command, bytes_free);
    actions = logic_.take_actions();
  } catch (const fault& why) {
    const std::lock_guard lock(mutex_);
    logic_.log_refused_for(command, why);
    actions = logic_.take_actions();
  }
  perform(std::move(actions));
}

void relay::coordinator_said_this(const release_log& command) {
  {
    const std::lock_guard lock(mutex_);
    logic_.job_released(command.job);
    forget(command.job);
    std::erase_if(postponed_, [&](const offered_block& block) {
      if (block.what.key.job != command.job) return false;
      postponed_bytes_ -= block.what.payload->bytes.size();
      return true;
    });
  }
  log_.release(command.job);
}

void relay::coordinator_said_this(const fence_job& command) {
  const std::lock_guard nothing_offered(offering_);
  std::unique_lock lock(mutex_);
  logic_.job_fenced_by(command);
  auto actions = logic_.take_actions();
  lock.unlock();
  perform(std::move(actions));
}

void relay::coordinator_said_this(const place_blocks& command) {
  std::unique_lock lock(mutex_);
  logic_.blocks_placed_by(command);
  auto actions = logic_.take_actions();
  const auto again = std::exchange(postponed_, {});
  postponed_bytes_ = 0;
  lock.unlock();
  perform(std::move(actions));
  for (const auto& block : again) take(block.from, block.what);
}

void relay::coordinator_said_this(const detour_job& command) {
  if (!network_) return;
  std::vector<std::string> elsewhere;
  {
    const std::lock_guard lock(mutex_);
    elsewhere = detours_.lead_relay(command.job, network_->address(), command.detours);
    for (const auto& to : elsewhere) outbox_.send_again(to, std::chrono::steady_clock::now());
  }
  // What waits for the way that leads nowhere.
  for (const auto& to : elsewhere) network_->forget(to);
}

void relay::coordinator_said_this(const probe_paths& command) {
  const std::lock_guard lock(mutex_);
  probe_.begin(command, std::chrono::steady_clock::now());
}

// ---- what other processes say ----

void relay::received(const std::string& from, message&& m) {
  // What was damaged on its way is neither taken nor acknowledged, and so comes again.
  if (m.payload && !is_intact(*m.payload)) return;
  m.kind == message_kind::carry ? pass_on_or_open(from, std::move(m)) : hear(from, {}, std::move(m));
}

void relay::pass_on_or_open(const std::string& from, message&& carry) {
  const auto carried = read_carry(carry);
  if (!carried) return;
  const bool is_for_here = carried->to == network_->address();
  std::shared_ptr<carried_bytes> bytes;
  {
    const std::lock_guard lock(mutex_);
    if (!(is_for_here ? detours_.comes_by(from, *carried) : detours_.passes_on(from, *carried))) return;
    if (!is_for_here) bytes = detours_.bytes_to(carried->to);
  }
  if (is_for_here) {
    if (auto m = opened(*carried)) hear(carried->from, from, std::move(*m));
    return;
  }
  carry.payload = bytes->admit(std::move(carry.payload));
  if (carry.payload) send_straight(carried->to, std::move(carry));
}

void relay::hear(const std::string& from, const std::string& via, message&& m) {
  switch (m.kind) {
    case message_kind::probe: return send_by(via, from, {.kind = message_kind::echo, .key = m.key});
    case message_kind::echo: {
      const std::lock_guard lock(mutex_);
      return probe_.answered(m.key.job, m.key.question, {from, via});
    }
    case message_kind::put:
    case message_kind::forward: return take(from, m);
    case message_kind::want: {
      std::unique_lock lock(mutex_);
      logic_.block_wanted(from, m.key);
      auto actions = logic_.take_actions();
      lock.unlock();
      return perform(std::move(actions));
    }
    case message_kind::acknowledge:
      if (const auto deliveries = acknowledged_by(m)) {
        const std::lock_guard lock(mutex_);
        outbox_.acknowledged(from, *deliveries);
      }
      return;
    case message_kind::answer:
    case message_kind::carry:
    case message_kind::direct: return;  // not for a relay
  }
}

void relay::take(const std::string& from, const message& m) {
  if (!m.payload) return;
  const std::lock_guard offered(offering_);
  std::unique_lock lock(mutex_);
  const auto verdict = logic_.judge(m.key);
  // Not acknowledged: should it be lost here, it comes again.
  if (verdict == block_verdict::later) {
    const std::size_t bytes = m.payload->bytes.size();
    if (postponed_bytes_ + bytes > postponed_bytes_max) return;
    postponed_bytes_ += bytes;
    postponed_.push_back({from, m});
    return;
  }
  if (verdict == block_verdict::take) {
    lock.unlock();
    try {
      log_.put(m.key, m.payload);
    } catch (const fault& why) {
      return give_up(m.key.job, why);
    }
    lock.lock();
    m.kind == message_kind::put ? logic_.block_given(from, m.key, m.targets) : logic_.block_forwarded(m.key, m.targets);
  }
  // Only now: a block is acknowledged when it is in the log, or nobody needs it (any more).
  if (m.delivery != 0) static_cast<void>(inbox_.first_time(from, m.delivery));
  auto actions = logic_.take_actions();
  lock.unlock();
  perform(std::move(actions), m.payload);
}

void relay::tick() {
  std::vector<addressed_message> due;
  std::map<std::string, std::vector<std::uint64_t>> acknowledgements;
  std::vector<path_probe::attempt> probes;
  std::vector<paths_probed> probed;
  {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    due = outbox_.due(now);
    acknowledgements = inbox_.take_acknowledgements();
    probes = probe_.due(now);
    probed = probe_.take_results(now);
  }
  for (auto& result : probed) report_(std::move(result));
  for (const auto& p : probes)
    send_by(p.way.via, p.way.to, {.kind = message_kind::probe, .key = {.job = p.job, .question = p.round}});
  for (auto& again : due) send(again.to, std::move(again.what));
  for (const auto& [to, deliveries] : acknowledgements) send(to, acknowledgement_of(deliveries));
}

// ---- what follows ----

void relay::perform(std::vector<relay_action>&& actions, const std::shared_ptr<const block>& at_hand) {
  for (auto& action : actions) {
    if (auto* report = std::get_if<relay_report>(&action)) {
      report_(std::move(*report));
      continue;
    }
    const auto& sending = std::get<send_block>(action);
    std::shared_ptr<const block> b = at_hand;
    try {
      if (!b) b = log_.get(sending.key);
    } catch (const fault& why) {
      if (why.code() != fault_code::corruption || !comes_again(sending)) give_up(sending.key.job, why);
    }
    if (b) send(sending, std::move(b));
  }
}

bool relay::comes_again(const send_block& damaged) {
  std::vector<relay_action> actions;
  {
    // Nobody may put it while the log still says that it is there.
    const std::lock_guard nothing_offered(offering_);
    log_.forget(damaged.key);
    const std::lock_guard lock(mutex_);
    if (!logic_.block_was_damaged(damaged)) return false;
    actions = logic_.take_actions();
  }
  perform(std::move(actions));
  return true;
}

void relay::send(const send_block& action, std::shared_ptr<const block>&& b) {
  message m{.kind = action.kind, .key = action.key, .targets = action.targets, .payload = std::move(b)};
  if (action.kind == message_kind::forward) {
    const std::lock_guard lock(mutex_);
    // Released meanwhile: nobody would take it out of the outbox.
    if (!logic_.holds(action.key)) return;
    m = outbox_.post(action.to, std::move(m), std::chrono::steady_clock::now());
  }
  send(action.to, std::move(m));
}

void relay::send(const std::string& to, message&& m) {
  std::string via;
  {
    const std::lock_guard lock(mutex_);
    if (const auto* way = detours_.way_to(to, m)) via = *way;
  }
  send_by(via, to, std::move(m));
}

void relay::send_by(const std::string& via, const std::string& to, message&& m) {
  if (via.empty()) return send_straight(to, std::move(m));
  auto carry = carry_of(network_->address(), to, m);
  if (!carry) return;
  std::shared_ptr<carried_bytes> bytes;
  {
    const std::lock_guard lock(mutex_);
    bytes = detours_.bytes_to(via);
  }
  carry->payload = bytes->admit(std::move(carry->payload));
  if (carry->payload) send_straight(via, std::move(*carry));
}

void relay::send_straight(const std::string& to, message&& m) {
  const job_id job = m.key.job;
  try {
    network_->send(to, std::move(m));
  } catch (const fault& why) {
    give_up(job, why);
  }
}

void relay::forget(job_id job) {
  outbox_.forget_job(job);
  detours_.forget_job(job);
  probe_.forget_job(job);
}

void relay::give_up(job_id job, const fault& why) {
  std::unique_lock lock(mutex_);
  logic_.log_broke(job, why);
  outbox_.forget_job(job);
  auto actions = logic_.take_actions();
  lock.unlock();
  perform(std::move(actions));
}

}  // namespace baton
