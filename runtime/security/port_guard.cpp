#include "runtime/security/port_guard.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "kernels/fault.hpp"
#include "runtime/security/tls_greeting.hpp"
#include "runtime/transport/refusals.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

constexpr std::size_t buffer_bytes = std::size_t{64} << 10;
constexpr auto accept_pause = 100ms;
constexpr int accepts_in_a_turn = 64;
constexpr std::uint64_t bell_event = 0, listening_event = 1;

/// What one side has said and the other has not taken yet.
class pipe_buffer {
 public:
  [[nodiscard]] bool empty() const { return begin_ == end_; }
  [[nodiscard]] bool full() const { return end_ == bytes_.size(); }
  [[nodiscard]] bool ended() const { return ended_; }

  /// Reads what fits; `heard` sees it. False: the connection has failed.
  template <class Heard>
  bool fill(const descriptor& from, Heard&& heard) {
    if (bytes_.empty()) bytes_.resize(buffer_bytes);
    while (!full() && !ended_) {
      const auto n = ::recv(from.get(), bytes_.data() + end_, bytes_.size() - end_, 0);
      if (n == 0) {
        ended_ = true;
      } else if (n > 0) {
        heard(std::span(bytes_).subspan(end_, static_cast<std::size_t>(n)));
        end_ += static_cast<std::size_t>(n);
      } else if (errno != EINTR) {
        return errno == EAGAIN || errno == EWOULDBLOCK;
      }
    }
    return true;
  }
  /// False: the connection has failed.
  bool drain(const descriptor& to) {
    while (!empty()) {
      const auto n = ::send(to.get(), bytes_.data() + begin_, end_ - begin_, MSG_NOSIGNAL);
      if (n >= 0) {
        begin_ += static_cast<std::size_t>(n);
      } else if (errno != EINTR) {
        return errno == EAGAIN || errno == EWOULDBLOCK;
      }
    }
    begin_ = end_ = 0;
    return true;
  }

 private:
  std::vector<std::byte> bytes_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  bool ended_ = false;
};

struct connection {
  std::uint64_t id = 0;  ///< even: events of the front have it, those of the back one more
  socket_place from;
  descriptor front;
  descriptor back{};
  bool back_connected = false;
  pipe_buffer inward{}, outward{};
  tls_greeting greeting{};
  tls_greeting::stage at = tls_greeting::stage::silent;
  clock::time_point deadline{};
  std::uint32_t front_events = 0, back_events = 0;
};

bool is_writable(const descriptor& socket) {
  pollfd what{socket.get(), POLLOUT, 0};
  return ::poll(&what, 1, 0) == 1;
}

}  // namespace

class port_guard::loop {
 public:
  explicit loop(const port_guard_options& options)
      : options_(options),
        refusals_(options.warn),
        listening_(listen_on(options_.listen)),
        epoll_(epoll_create1(EPOLL_CLOEXEC)),
        bell_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    if (!epoll_ || !bell_) throw fault(fault_code::device, "no file descriptors", options_.listen.text());
    control(EPOLL_CTL_ADD, bell_, EPOLLIN, bell_event);
    control(EPOLL_CTL_ADD, listening_, EPOLLIN, listening_event);
  }

  [[nodiscard]] std::uint16_t port() const { return options_.listen.port; }
  void stop() noexcept { eventfd_write(bell_.get(), 1); }

  void run() {
    std::array<epoll_event, 64> ready{};
    for (;;) {
      const int count = epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()), sleep_ms());
      for (int i = 0; i < count; ++i) {
        const auto what = ready[static_cast<std::size_t>(i)].data.u64;
        if (what == bell_event) return;
        try {
          attend_to(what, ready[static_cast<std::size_t>(i)].events);
        } catch (const std::exception&) {
          drop(what & ~std::uint64_t{1});  // no memory for it, most likely; nobody else is to suffer
        }
      }
      expire(clock::now());
    }
  }

 private:
  using connections = std::map<std::uint64_t, std::unique_ptr<connection>>;

  void attend_to(std::uint64_t what, std::uint32_t events) {
    if (what == listening_event) return accept_all();
    auto* c = find(what & ~std::uint64_t{1});
    if (c == nullptr) return;
    if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
      drop(c->id);  // what was under way is lost; it would be told again and again
    } else {
      move(*c);
    }
  }

  void control(int how, const descriptor& fd, std::uint32_t events, std::uint64_t id) {
    epoll_event what{.events = events, .data = {.u64 = id}};
    static_cast<void>(epoll_ctl(epoll_.get(), how, fd.get(), &what));
  }

  connection* find(std::uint64_t id) {
    for (auto* group : {&strangers_, &members_}) {
      if (const auto found = group->find(id); found != group->end()) return found->second.get();
    }
    return nullptr;
  }

  [[nodiscard]] int sleep_ms() const {
    std::optional<clock::time_point> due;
    if (!strangers_.empty()) due = strangers_.begin()->second->deadline;
    if (!accepting_) due = due ? std::min(*due, accept_after_) : accept_after_;
    if (!due) return -1;
    const auto rest = std::chrono::ceil<std::chrono::milliseconds>(*due - clock::now()).count();
    return static_cast<int>(std::clamp<std::int64_t>(rest, 0, 60'000));
  }

  void expire(clock::time_point now) {
    while (!strangers_.empty() && strangers_.begin()->second->deadline <= now)
      refuse(strangers_.begin()->first, "it did not finish a TLS handshake in time");
    if (!accepting_ && now >= accept_after_) {
      accepting_ = true;
      control(EPOLL_CTL_MOD, listening_, EPOLLIN, listening_event);
    }
  }

  void accept_all() {
    for (int i = 0; i < accepts_in_a_turn; ++i) {
      socket_place from;
      int error = 0;
      auto socket = accept_from(listening_, from, error);
      if (!socket) {
        if (error == ECONNABORTED || error == EINTR) continue;
        if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) pause();
        return;
      }
      if (strangers_.size() + members_.size() >= connections_max) {
        refusals_.report(from, options_.listen, "there are too many connections", clock::now());
        continue;
      }
      if (strangers_.size() >= strangers_max) refuse(one_too_many(strangers_), "too many connect at once");
      last_ += 2;
      auto c = std::make_unique<connection>();
      c->id = last_;
      c->from = from;
      c->front = std::move(socket);
      c->front_events = EPOLLIN;
      c->deadline = clock::now() + handshake_time_max;
      control(EPOLL_CTL_ADD, c->front, c->front_events, c->id);
      strangers_.emplace(last_, std::move(c));
    }
  }

  /// It would be readable for ever: look again later.
  void pause() {
    control(EPOLL_CTL_MOD, listening_, 0, listening_event);
    accepting_ = false;
    accept_after_ = clock::now() + accept_pause;
  }

  void refuse(std::uint64_t id, const std::string& why) {
    const auto gone = strangers_.extract(id);
    if (!gone.empty()) refusals_.report(gone.mapped()->from, options_.listen, why, clock::now());
  }

  void drop(std::uint64_t id) {
    strangers_.erase(id);
    members_.erase(id);
  }

  /// Does all there is to do for a connection.
  void move(connection& c) {
    using stage = tls_greeting::stage;
    const auto before = c.at;
    if (!c.inward.fill(c.front, [&](std::span<const std::byte> bytes) { c.at = c.greeting.heard(bytes); }))
      return drop(c.id);
    if (c.at == stage::nonsense) return refuse(c.id, "it does not speak TLS 1.3");
    if (c.at == stage::silent) {
      // Who goes away without a word has looked whether somebody is here, as members do before they join.
      if (c.inward.ended() && c.inward.empty()) return drop(c.id);
      if (c.inward.ended() || c.inward.full()) refuse(c.id, "it said no hello");
      return;
    }
    if (!c.back) {
      c.back = begin_to_connect(options_.behind);
      if (!c.back) return drop(c.id);
      c.back_events = EPOLLOUT;
      control(EPOLL_CTL_ADD, c.back, c.back_events, c.id + 1);
    }
    if (!c.back_connected) {
      if (!is_writable(c.back)) return watch(c);
      if (!has_connected(c.back)) return drop(c.id);
      c.back_connected = true;
    }
    if (!c.outward.fill(c.back, [](std::span<const std::byte>) {}) || !c.inward.drain(c.back) ||
        !c.outward.drain(c.front)) {
      return drop(c.id);
    }
    if ((c.inward.ended() && c.inward.empty()) || (c.outward.ended() && c.outward.empty())) return drop(c.id);
    watch(c);
    if (before != stage::finished && c.at == stage::finished) {
      auto known = strangers_.extract(c.id);
      members_.insert(std::move(known));
    }
  }

  void watch(connection& c) {
    const auto set = [&](const descriptor& fd, std::uint32_t& now, std::uint32_t wanted, std::uint64_t id) {
      if (std::exchange(now, wanted) != wanted) control(EPOLL_CTL_MOD, fd, wanted, id);
    };
    const auto events = [](bool in, bool out) {
      return (in ? static_cast<std::uint32_t>(EPOLLIN) : 0U) | (out ? static_cast<std::uint32_t>(EPOLLOUT) : 0U);
    };
    set(c.front, c.front_events, events(!c.inward.full() && !c.inward.ended(), !c.outward.empty()), c.id);
    set(c.back, c.back_events,
        events(c.back_connected && !c.outward.full() && !c.outward.ended(), !c.back_connected || !c.inward.empty()),
        c.id + 1);
  }

  port_guard_options options_;
  refusals refusals_;
  descriptor listening_;
  descriptor epoll_;
  descriptor bell_;
  std::uint64_t last_ = 2;
  bool accepting_ = true;
  clock::time_point accept_after_{};
  connections strangers_;  ///< the oldest first
  connections members_;
};

port_guard::port_guard(const port_guard_options& options) : loop_(std::make_unique<loop>(options)) {
  port_ = loop_->port();
  thread_ = std::thread([this] { loop_->run(); });
}

port_guard::~port_guard() {
  loop_->stop();
  thread_.join();
}

}  // namespace baton
