#include "runtime/transport/ucx_connections.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <random>
#include <utility>

namespace baton {
namespace {

using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

constexpr unsigned message_id = 0;

/// A larger payload is fetched by its receiver: it goes straight into its block instead of through UCX's buffers.
constexpr std::size_t eager_bytes_max = std::size_t{64} << 10;
/// Large payloads under way to one peer: enough that the next is ready when one is done. With twice as much, what the receiver fills
/// no longer stays in its cache, and a gigabyte costs a quarter more CPU time.
constexpr std::size_t window_bytes = std::size_t{16} << 20;
constexpr auto reconnect_pause = 200ms;
/// How often closing connections are looked at.
constexpr auto close_interval = 50ms;
/// How long large messages may stand still before a hello asks whether the other side still has its connection.
constexpr auto probe_interval = 1s;
constexpr auto shutdown_time_max = 3s;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

instance_id random_instance() {
  std::random_device random;
  instance_id drawn = 0;
  while (drawn == 0) drawn = (static_cast<instance_id>(random()) << 32) | random();
  return drawn;
}

}  // namespace

/// A message that waits, or that UCX holds.
struct ucx_connections::sending {
  ucx_connections* owner = nullptr;
  message what;
  bool hello = false;
  std::vector<std::byte> header;
  connection* over = nullptr;  ///< once UCX holds it

  [[nodiscard]] std::size_t payload_bytes() const { return what.payload ? what.payload->bytes.size() : 0; }
  [[nodiscard]] bool large() const { return payload_bytes() > eager_bytes_max; }
  /// Sent again by somebody who does not know how far the first one is.
  [[nodiscard]] bool repeats(const sending& other) const {
    const message& a = what;
    const message& b = other.what;
    return a.kind == b.kind && a.delivery == b.delivery && a.key == b.key && a.key.attempt == b.key.attempt &&
           a.targets == b.targets && payload_bytes() == other.payload_bytes();
  }
};

/// A payload that UCX fills.
struct ucx_connections::receiving {
  ucx_connections* owner = nullptr;
  peer* from = nullptr;
  std::size_t header_bytes = 0;
  message what;
  std::shared_ptr<block> payload;
};

/// An endpoint from its making to the end of its closing.
struct ucx_connections::connection {
  ucx_connections* owner = nullptr;
  peer* to = nullptr;
  ucp_ep_h endpoint = nullptr;
  std::uint32_t number = 0;
  time_point moved{};           ///< when the last large message began or ended
  std::vector<sending*> large;  ///< under way
  std::size_t large_bytes = 0;
  std::int64_t under_way = 0;  ///< messages that UCX holds
  bool broken = false;
  bool closed = false;
};

struct ucx_connections::peer {
  std::string address;
  std::unique_ptr<connection> over;
  std::deque<std::unique_ptr<sending>> small;  ///< while there is no connection
  std::deque<std::unique_ptr<sending>> large;  ///< while there is none, or its window is full
  time_point connect_after{};
  std::uint32_t number = 0;        ///< of our last connection
  std::uint32_t heard_number = 0;  ///< of theirs
  bool knows_us = false;           ///< has sent something, so it has our address
  bool wanted = false;             ///< there is something to send, or they have a connection to us
  bool attended = false;           ///< is in `attended_`
  bool greet = false;              ///< shall get a hello, because it is behind
};

ucx_connections::ucx_connections(ucx_worker& worker, traffic_counters& counters)
    : worker_(worker),
      counters_(counters),
      self_(random_instance()),
      address_(write_address({self_, bytes_of(worker.address())})) {
  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = message_id;
  handler.arg = this;
  handler.cb = [](void* self, const void* header, std::size_t header_bytes, void* data, std::size_t bytes,
                  const ucp_am_recv_param_t* how) {
    return static_cast<ucx_connections*>(self)->receive({static_cast<const std::byte*>(header), header_bytes}, data,
                                                        bytes, (how->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0);
  };
  check_ucx(ucx().ucp_worker_set_am_recv_handler(worker_.get(), &handler), "setting the message handler");
}

ucx_connections::~ucx_connections() {
  const auto deadline = clock::now() + shutdown_time_max;
  ending_ = true;
  for (auto& [instance, p] : peers_) close(*p, time_point::max());
  // Whatever UCX holds beyond the deadline is left to it: it may still read or write there.
  while (!(closing_.empty() && receiving_ == 0) && clock::now() < deadline) {
    if (!worker_.progress()) worker_.wait(-1, 10ms);
    std::erase_if(closing_, [](const auto& c) { return c->closed && c->under_way == 0; });
  }
  for (auto& c : closing_) static_cast<void>(c.release());
  worker_.finish(deadline);
}

void ucx_connections::send(const std::string& to, message&& m) {
  const auto instance = read_address(bytes_of(to))->instance;
  if (instance == self_) {
    arrived_.push_back({&address_, std::move(m)});
    return;
  }
  peer& p = peer_at(to, instance);
  auto s = std::make_unique<sending>();
  s->owner = this;
  s->what = std::move(m);
  if (s->large()) {
    const auto repeated = [&](const auto& other) { return s->repeats(*other); };
    if (std::any_of(p.large.begin(), p.large.end(), repeated)) return;
    if (p.over && std::any_of(p.over->large.begin(), p.over->large.end(), repeated)) return;
    p.large.push_back(std::move(s));
  } else {
    p.small.push_back(std::move(s));
  }
  p.wanted = true;
  if (p.over) {
    send_waiting(p);
  } else {
    attend(p);
  }
}

void ucx_connections::forget(const std::string& to) {
  const auto found = peers_.find(read_address(bytes_of(to))->instance);
  if (found != peers_.end()) close(*found->second, time_point{});
}

void ucx_connections::advance(time_point now) {
  for (connection* c : std::exchange(broken_, {})) {
    if (c->to->over.get() == c) close(*c->to, now + reconnect_pause);
  }
  std::erase_if(closing_, [](const auto& c) { return c->closed && c->under_way == 0; });
  for (peer* p : std::exchange(attended_, {})) {
    p->attended = false;
    if (p->over && p->over->number < p->heard_number) {
      close(*p, now);
      p->wanted = true;
    }
    if (!p->over && p->wanted) connect(*p, now);
    if (p->over && std::exchange(p->greet, false)) say_hello(*p->over);
    send_waiting(*p);
  }
  probe(now);
}

std::optional<ucx_connections::time_point> ucx_connections::next_due(time_point now) const {
  if (!broken_.empty()) return now;
  std::optional<time_point> due;
  const auto at = [&](time_point t) { due = due ? std::min(*due, t) : t; };
  for (const peer* p : attended_) at(p->over ? now : p->connect_after);
  if (large_under_way_ > 0) at(probe_at_);
  if (!closing_.empty()) at(now + close_interval);
  return due;
}

ucx_connections::peer& ucx_connections::peer_at(const std::string& address, instance_id instance) {
  auto& p = peers_[instance];
  if (!p) {
    p = std::make_unique<peer>();
    p->address = address;
  }
  return *p;
}

/// Null: a stranger who does not say where answers go to.
ucx_connections::peer* ucx_connections::sender_of(const message_header& header) {
  if (header.sender_address.empty()) {
    const auto known = peers_.find(header.sender);
    return known == peers_.end() ? nullptr : known->second.get();
  }
  const auto address = read_address(header.sender_address);
  if (!address || address->instance != header.sender) return nullptr;
  return &peer_at({reinterpret_cast<const char*>(header.sender_address.data()), header.sender_address.size()},
                  header.sender);
}

void ucx_connections::attend(peer& p) {
  if (std::exchange(p.attended, true)) return;
  attended_.push_back(&p);
}

void ucx_connections::connect(peer& p, time_point now) {
  if (now < p.connect_after) {
    attend(p);
    return;
  }
  auto c = std::make_unique<connection>();
  c->owner = this;
  c->to = &p;
  c->number = p.number = std::max(p.number + 1, p.heard_number);
  ucp_ep_params_t how{};
  how.field_mask =
      UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  how.address = reinterpret_cast<const ucp_address_t*>(read_address(bytes_of(p.address))->place.data());
  how.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  how.err_handler.arg = c.get();
  how.err_handler.cb = [](void* arg, ucp_ep_h, ucs_status_t) {
    auto* failed = static_cast<connection*>(arg);
    failed->owner->broke(*failed);
  };
  if (ucx().ucp_ep_create(worker_.get(), &how, &c->endpoint) != UCS_OK) {
    close(p, now + reconnect_pause);
    return;
  }
  p.over = std::move(c);
  say_hello(*p.over);
}

void ucx_connections::say_hello(connection& c) {
  auto s = std::make_unique<sending>();
  s->owner = this;
  s->hello = true;
  post(c, std::move(s));
}

void ucx_connections::probe(time_point now) {
  if (large_under_way_ == 0 || now < probe_at_) return;
  probe_at_ = now + probe_interval;
  for (const auto& [instance, p] : peers_) {
    if (p->over && !p->over->broken && !p->over->large.empty() && now - p->over->moved >= probe_interval) {
      say_hello(*p->over);
    }
  }
}

void ucx_connections::heard(peer& from, const message_header& header) {
  from.knows_us = true;
  from.wanted = true;
  from.heard_number = std::max(from.heard_number, header.connection);
  if (!from.over || from.over->number < from.heard_number) attend(from);
  if (header.hello && header.connection < from.number) {
    from.greet = true;
    attend(from);
  }
}

/// Drops what was to be sent, and the connection if there is one.
void ucx_connections::close(peer& p, time_point retry_at) {
  p.small.clear();
  p.large.clear();
  p.wanted = false;
  p.connect_after = retry_at;
  if (!p.over) return;
  auto c = std::move(p.over);
  ucp_request_param_t how{};
  how.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  how.flags = UCP_EP_CLOSE_FLAG_FORCE;
  how.user_data = c.get();
  how.cb.send = [](void* request, ucs_status_t, void* closed) {
    ucx().ucp_request_free(request);
    static_cast<connection*>(closed)->closed = true;
  };
  c->broken = true;  // what comes to its end now needs no other close
  if (!UCS_PTR_IS_PTR(ucx().ucp_ep_close_nbx(c->endpoint, &how))) c->closed = true;
  closing_.push_back(std::move(c));
}

/// UCX is in the middle of something: the endpoint is closed in `advance`.
void ucx_connections::broke(connection& c) {
  if (std::exchange(c.broken, true)) return;
  broken_.push_back(&c);
}

void ucx_connections::send_waiting(peer& p) {
  while (p.over && !p.over->broken && !p.small.empty()) {
    auto s = std::move(p.small.front());
    p.small.pop_front();
    post(*p.over, std::move(s));
  }
  while (p.over && !p.over->broken && !p.large.empty()) {
    if (!p.over->large.empty() && p.over->large_bytes + p.large.front()->payload_bytes() > window_bytes) break;
    auto s = std::move(p.large.front());
    p.large.pop_front();
    post(*p.over, std::move(s));
  }
}

void ucx_connections::post(connection& c, std::unique_ptr<sending> s) {
  const std::size_t bytes = s->payload_bytes();
  message_header header;
  header.sender = self_;
  header.connection = c.number;
  header.hello = s->hello;
  header.what = s->what;
  header.what.payload.reset();
  if (s->what.payload) {
    header.has_payload = true;
    header.payload_bytes = bytes;
    header.payload_checksum = s->what.payload->checksum;
  }
  if (!c.to->knows_us) header.sender_address = bytes_of(address_);
  s->header = write_header(header);

  ucp_request_param_t how{};
  how.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                     UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  how.flags = s->large() ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER;
  how.memory_type = UCS_MEMORY_TYPE_HOST;
  how.user_data = s.get();
  how.cb.send = [](void* request, ucs_status_t status, void* done) {
    ucx().ucp_request_free(request);
    auto* completed = static_cast<sending*>(done);
    completed->owner->sent(completed, status);
  };
  const auto* payload = bytes == 0 ? nullptr : s->what.payload->bytes.data();
  auto* request =
      ucx().ucp_am_send_nbx(c.endpoint, message_id, s->header.data(), s->header.size(), payload, bytes, &how);
  if (UCS_PTR_IS_ERR(request)) {
    broke(c);
    return;
  }
  if (!s->hello) {
    counters_.messages_sent += 1;
    counters_.bytes_sent += static_cast<std::int64_t>(s->header.size() + bytes);
  }
  if (request == nullptr) return;
  ++c.under_way;
  if (s->large()) {
    if (c.large.empty()) c.moved = clock::now();
    c.large.push_back(s.get());
    c.large_bytes += bytes;
    ++large_under_way_;
  }
  s->over = &c;
  static_cast<void>(s.release());  // `sent` deletes it
}

void ucx_connections::sent(sending* s, ucs_status_t status) {
  const std::unique_ptr<sending> owned(s);
  connection& c = *s->over;
  --c.under_way;
  if (s->large()) {
    std::erase(c.large, s);
    c.large_bytes -= s->payload_bytes();
    c.moved = clock::now();
    --large_under_way_;
    if (!c.broken && !c.to->large.empty()) attend(*c.to);
  }
  if (status != UCS_OK) broke(c);
}

/// Called by UCX: nothing may be thrown. What is no message, or has no place in memory, is dropped as if it had been lost.
ucs_status_t ucx_connections::receive(std::span<const std::byte> header, void* data, std::size_t bytes,
                                      bool rendezvous) try {
  if (ending_) return UCS_OK;
  auto read = read_header(header);
  if (!read || read->payload_bytes != bytes || read->sender == self_) return UCS_OK;
  peer* from = sender_of(*read);
  if (from == nullptr) return UCS_OK;
  heard(*from, *read);
  if (read->hello) return UCS_OK;

  auto r = std::make_unique<receiving>();
  *r = {this, from, header.size(), std::move(read->what), nullptr};
  if (read->has_payload) {
    r->payload = std::make_shared<block>();
    r->payload->checksum = read->payload_checksum;
    r->payload->bytes.resize(bytes);
  }
  if (!rendezvous) {
    if (bytes != 0) std::memcpy(r->payload->bytes.data(), data, bytes);
    ++receiving_;
    received(r.release(), UCS_OK, bytes);
    return UCS_OK;
  }
  if (!read->has_payload) return UCS_OK;

  ucp_request_param_t how{};
  how.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  how.memory_type = UCS_MEMORY_TYPE_HOST;
  how.user_data = r.get();
  how.cb.recv_am = [](void* request, ucs_status_t status, std::size_t length, void* done) {
    ucx().ucp_request_free(request);
    auto* completed = static_cast<receiving*>(done);
    completed->owner->received(completed, status, length);
  };
  auto* request = ucx().ucp_am_recv_data_nbx(worker_.get(), data, r->payload->bytes.data(), bytes, &how);
  if (UCS_PTR_IS_ERR(request)) return UCS_INPROGRESS;  // UCX owns `data` all the same
  ++receiving_;
  auto* started = r.release();
  if (request == nullptr) received(started, UCS_OK, bytes);
  return UCS_INPROGRESS;
} catch (const std::bad_alloc&) {
  return UCS_OK;
}

void ucx_connections::received(receiving* r, ucs_status_t status, std::size_t bytes) {
  const std::unique_ptr<receiving> owned(r);
  --receiving_;
  if (status != UCS_OK || (r->payload && bytes != r->payload->bytes.size())) return;
  r->what.payload = std::move(r->payload);
  counters_.messages_received += 1;
  counters_.bytes_received += static_cast<std::int64_t>(r->header_bytes + bytes);
  arrived_.push_back({&r->from->address, std::move(r->what)});
}

}  // namespace baton
