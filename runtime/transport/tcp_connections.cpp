#include "runtime/transport/tcp_connections.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <utility>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "kernels/fault.hpp"

namespace baton {
namespace {

using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

constexpr auto reconnect_pause = 200ms;
/// How long nobody is accepted when there are no file descriptors.
constexpr auto accept_pause = 100ms;
/// Of one connection, before the next has its turn.
constexpr std::size_t turn_bytes = std::size_t{4} << 20;
/// What is read along behind what is wanted: the more, the fewer calls for small messages, and the more of a large one is copied.
constexpr std::size_t spare_bytes = std::size_t{64} << 10;
constexpr std::size_t spare_bytes_in_chunk = std::size_t{4} << 10;
/// One that proves itself anew has lost the one before; so many may not have noticed.
constexpr std::size_t incoming_max = 2;
constexpr int accepts_in_a_turn = 64;

constexpr std::uint64_t bell_channel = 0;
constexpr std::uint64_t listening_channel = 1;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

socket_place place_of(const std::string& host) {
  const auto place = socket_place::of(host, 0);
  if (!place) throw fault(fault_code::bad_input, fmt::format("'{}' is no numeric address such as 10.0.0.1", host));
  return *place;
}

descriptor make_epoll() {
  descriptor made(epoll_create1(EPOLL_CLOEXEC));
  if (!made) throw fault(fault_code::device, "no file descriptor for the transport thread");
  return made;
}

/// Fills `into` from `got` on, as far as there are bytes. False: the connection has ended.
bool receive(const descriptor& socket, std::span<std::byte> into, std::size_t& got) {
  while (got < into.size()) {
    const auto n = ::recv(socket.get(), into.data() + got, into.size() - got, 0);
    if (n > 0) {
      got += static_cast<std::size_t>(n);
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else {
      return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    }
  }
  return true;
}

/// Into a socket with room, as one has that nothing was sent over.
bool send_at_once(const descriptor& socket, std::span<const std::byte> bytes) {
  return ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

}  // namespace

struct tcp_connections::peer {
  instance_id instance = 0;
  socket_place place;
  std::string address;
  sending_queue queue;
  std::unique_ptr<outgoing> over;
  std::vector<channel_id> incoming;  ///< the oldest first
  time_point connect_after{};
  bool attended = false;  ///< is in `attended_`
};

struct tcp_connections::stranger {
  channel_id id = 0;
  descriptor socket;
  socket_place from;
  time_point deadline;
  handshake_acceptor hands;
  bool greeted = false;
  std::array<std::byte, hello_bytes> bytes{};
  std::size_t got = 0;
};

struct tcp_connections::incoming {
  incoming(channel_id its_id, descriptor&& its_socket, peer& its_peer, const std::optional<secret_key>& key)
      : id(its_id), socket(std::move(its_socket)), from(&its_peer), reader(key) {}

  channel_id id = 0;
  descriptor socket;
  peer* from = nullptr;
  record_reader reader;
};

struct tcp_connections::outgoing {
  enum class stage : std::uint8_t { connecting, greeting, open };

  channel_id id = 0;
  descriptor socket;
  peer* to = nullptr;
  time_point deadline;  ///< of the handshake
  bool sealed = false;
  handshake_initiator hands;
  stage at = stage::connecting;
  std::array<std::byte, reply_bytes> reply{};
  std::size_t got = 0;
  std::optional<record_writer> writer{};
  bool waits_for_room = false;
};

tcp_connections::tcp_connections(const tcp_options& options, traffic_counters& counters)
    : options_(options),
      counters_(counters),
      refusals_(options.warn),
      self_(options.identity.admission.instance),
      place_(place_of(options.host)),
      listening_(listen_on_one_of(options.ports, place_)),
      epoll_(make_epoll()),
      address_(write_address({self_, place_.to_wire()})),
      spare_(spare_bytes) {
  if (self_ == 0) throw fault(fault_code::internal, "a messenger needs what the control plane gives those who join");
  watch(listening_.get(), listening_channel, EPOLLIN);
}

tcp_connections::~tcp_connections() {
  // A connection goes before the queue whose payloads it writes.
  for (auto& [instance, p] : peers_) p->over.reset();
}

// ---- what others want of it ----

void tcp_connections::send(const std::string& to, message&& m) {
  const auto where = read_address(bytes_of(to));
  if (where->instance == self_) {
    arrived_.push_back({&address_, std::move(m)});
    return;
  }
  const auto place = socket_place::from_wire(where->place);
  if (!place) return;  // an address of another kind of messenger: nobody is there
  peer& p = peer_at(where->instance, *place);
  p.queue.put(std::move(m));
  if (!p.over || p.over->at == outgoing::stage::open) attend(p);
}

void tcp_connections::forget(const std::string& to) {
  const auto found = peers_.find(read_address(bytes_of(to))->instance);
  if (found != peers_.end()) close(*found->second, time_point{});
}

void tcp_connections::advance(time_point now) {
  if (!accepting_ && now >= accept_after_) {
    accepting_ = true;
    watch_again(listening_.get(), listening_channel, EPOLLIN);
  }
  while (!strangers_.empty() && strangers_.begin()->second->deadline <= now)
    refuse(strangers_.begin()->first, "it did not prove in time that it belongs here");
  std::vector<peer*> late;
  for (const auto& [id, p] : outgoing_) {
    if (p->over->at != outgoing::stage::open && p->over->deadline <= now) late.push_back(p);
  }
  for (peer* p : late) close(*p, now + reconnect_pause);
  for (peer* p : std::exchange(attended_, {})) {
    p->attended = false;
    if (p->queue.empty()) continue;
    if (!p->over) {
      connect(*p, now);
    } else if (p->over->at == outgoing::stage::open && !p->over->waits_for_room) {
      flush(*p->over);
    }
  }
}

std::optional<tcp_connections::time_point> tcp_connections::next_due(time_point now) const {
  std::optional<time_point> due;
  const auto at = [&](time_point t) { due = due ? std::min(*due, t) : t; };
  for (const peer* p : attended_) at(p->over ? now : p->connect_after);
  for (const auto& [id, p] : outgoing_) {
    if (p->over->at != outgoing::stage::open) at(p->over->deadline);
  }
  if (!strangers_.empty()) at(strangers_.begin()->second->deadline);
  if (!accepting_) at(accept_after_);
  return due;
}

bool tcp_connections::progress() {
  if (ready_.empty()) poll(0);
  bool moved = false;
  for (const auto& event : std::exchange(ready_, {})) {
    const channel_id id = event.data.u64;
    if (id == bell_channel) continue;
    moved = true;
    try {
      attend_to(id, event.events);
    } catch (const std::exception&) {
      drop(id);  // no memory for it, most likely; nobody else is to suffer
    }
  }
  return moved;
}

void tcp_connections::attend_to(channel_id id, std::uint32_t events) {
  if (id == listening_channel) {
    accept_strangers();
  } else if (const auto s = strangers_.find(id); s != strangers_.end()) {
    hear(*s->second);
  } else if (const auto in = incoming_.find(id); in != incoming_.end()) {
    hear(*in->second);
  } else if (const auto out = outgoing_.find(id); out != outgoing_.end()) {
    go_on(*out->second->over, events);
  }
}

void tcp_connections::drop(channel_id id) {
  strangers_.erase(id);
  if (const auto in = incoming_.find(id); in != incoming_.end()) {
    std::erase(in->second->from->incoming, id);
    incoming_.erase(in);
  }
  if (const auto out = outgoing_.find(id); out != outgoing_.end()) close(*out->second, clock::now() + reconnect_pause);
}

void tcp_connections::wait(int other_fd, std::optional<std::chrono::nanoseconds> time_max) {
  if (bell_fd_ != other_fd) {
    bell_fd_ = other_fd;
    watch(bell_fd_, bell_channel, EPOLLIN);
  }
  if (!time_max) {
    poll(-1);
  } else {
    const auto rounded = std::chrono::ceil<std::chrono::milliseconds>(*time_max).count();
    poll(static_cast<int>(std::clamp<std::int64_t>(rounded, 0, 60'000)));
  }
}

void tcp_connections::poll(int milliseconds) {
  ready_.resize(64);
  const int count = epoll_wait(epoll_.get(), ready_.data(), static_cast<int>(ready_.size()), milliseconds);
  ready_.resize(static_cast<std::size_t>(std::max(count, 0)));
}

void tcp_connections::watch(int fd, channel_id id, std::uint32_t events) {
  epoll_event what{.events = events, .data = {.u64 = id}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &what) != 0)
    throw fault(fault_code::device, fmt::format("epoll: {}", std::strerror(errno)));
}

void tcp_connections::watch_again(int fd, channel_id id, std::uint32_t events) {
  epoll_event what{.events = events, .data = {.u64 = id}};
  static_cast<void>(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &what));
}

tcp_connections::peer& tcp_connections::peer_at(instance_id instance, const socket_place& place) {
  auto& p = peers_[instance];
  if (!p) {
    p = std::make_unique<peer>();
    p->instance = instance;
    p->place = place;
    p->address = write_address({instance, place.to_wire()});
  }
  return *p;
}

// ---- who connects ----

void tcp_connections::accept_strangers() {
  for (int i = 0; i < accepts_in_a_turn; ++i) {
    socket_place from;
    int error = 0;
    auto socket = accept_from(listening_, from, error);
    if (!socket) {
      if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) {
        // It would be readable for ever: look again later.
        watch_again(listening_.get(), listening_channel, 0);
        accepting_ = false;
        accept_after_ = clock::now() + accept_pause;
      } else if (error == ECONNABORTED || error == EINTR) {
        continue;
      }
      return;
    }
    make_room();
    const auto id = ++last_channel_;
    watch(socket.get(), id, EPOLLIN);
    auto s = std::make_unique<stranger>();
    s->id = id;
    s->socket = std::move(socket);
    s->from = from;
    s->deadline = clock::now() + handshake_time_max;
    strangers_.emplace(id, std::move(s));
  }
}

void tcp_connections::make_room() {
  if (strangers_.size() < strangers_max) return;
  refuse(one_too_many(strangers_), "too many connect at once and say nothing");
}

void tcp_connections::hear(stranger& s) {
  const std::size_t length = s.greeted ? proof_bytes : hello_bytes;
  if (!receive(s.socket, std::span(s.bytes).first(length), s.got)) return refuse(s.id, "it went away");
  if (s.got < length) return;
  s.got = 0;
  if (!s.greeted) {
    const auto reply = s.hands.greeted(options_.identity, s.bytes);
    if (!reply) return refuse(s.id, "it is no process of this cluster, or means another one");
    if (!send_at_once(s.socket, *reply)) return refuse(s.id, "it went away");
    s.greeted = true;
    return;
  }
  const auto proven = s.hands.proven(std::span(s.bytes).first<proof_bytes>());
  if (!proven) return refuse(s.id, "it repeats what others have said, or is not who it says");
  const auto own_end = own_end_of(s.socket);
  const bool here = s.from.is_loopback() && own_end && own_end->is_loopback();
  if (!proven->sealed && (!here || options_.seal_always)) return refuse(s.id, "it does not encrypt");
  admit(s.id, *proven);
}

void tcp_connections::admit(channel_id id, const handshake_acceptor::peer& proven) {
  auto socket = std::move(strangers_.at(id)->socket);
  strangers_.erase(id);
  peer& p = peer_at(proven.instance, proven.place);
  while (p.incoming.size() >= incoming_max) {
    incoming_.erase(p.incoming.front());
    p.incoming.erase(p.incoming.begin());
  }
  p.incoming.push_back(id);
  auto in = std::make_unique<incoming>(id, std::move(socket), p,
                                       proven.sealed ? std::optional(proven.records) : std::nullopt);
  hear(*incoming_.emplace(id, std::move(in)).first->second);
}

void tcp_connections::refuse(channel_id id, const std::string& why) {
  const auto gone = strangers_.extract(id);
  refusals_.report(gone.mapped()->from, place_, why, clock::now());
}

void tcp_connections::hear(incoming& from) {
  bool well = true;
  for (std::size_t heard = 0; well && heard < turn_bytes;) {
    const auto wanted = from.reader.wanted();
    const auto spare = std::span(spare_).first(from.reader.in_chunk() ? spare_bytes_in_chunk : spare_bytes);
    std::array<iovec, 2> into{iovec{wanted.data(), wanted.size()}, iovec{spare.data(), spare.size()}};
    const auto n = ::readv(from.socket.get(), into.data(), static_cast<int>(into.size()));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n <= 0) {
      well = false;
      break;
    }
    const auto bytes = static_cast<std::size_t>(n);
    heard += bytes;
    well = from.reader.got(std::min(bytes, wanted.size()));
    auto rest = spare.first(bytes - std::min(bytes, wanted.size()));
    while (well && !rest.empty()) {
      const auto next = from.reader.wanted();
      const auto length = std::min(next.size(), rest.size());
      std::memcpy(next.data(), rest.data(), length);
      rest = rest.subspan(length);
      well = from.reader.got(length);
    }
    if (bytes < wanted.size() + spare.size()) break;
  }
  for (auto& came : from.reader.take_arrived()) {
    counters_.messages_received += 1;
    counters_.bytes_received += static_cast<std::int64_t>(came.bytes);
    arrived_.push_back({&from.from->address, std::move(came.what)});
  }
  if (!well) drop(from.id);
}

// ---- whom it connects to ----

void tcp_connections::attend(peer& p) {
  if (std::exchange(p.attended, true)) return;
  attended_.push_back(&p);
}

void tcp_connections::connect(peer& p, time_point now) {
  if (now < p.connect_after) return attend(p);
  auto socket = begin_to_connect(p.place);
  if (!socket) return close(p, now + reconnect_pause);
  const auto id = ++last_channel_;
  const bool sealed = options_.seal_always || !p.place.is_loopback();
  watch(socket.get(), id, EPOLLOUT);
  p.over = std::make_unique<outgoing>(outgoing{id, std::move(socket), &p, now + handshake_time_max, sealed,
                                               handshake_initiator(options_.identity, place_, p.instance, sealed)});
  outgoing_.emplace(id, &p);
}

void tcp_connections::go_on(outgoing& to, std::uint32_t events) {
  peer& p = *to.to;
  if (to.at != outgoing::stage::open) {
    if (!shake_hands(to)) return close(p, clock::now() + reconnect_pause);
    if (to.at == outgoing::stage::open) flush(to);
    return;
  }
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
    // Nothing is ever said here: it has ended.
    return close(p, clock::now() + reconnect_pause);
  }
  flush(to);
}

/// False: it failed.
bool tcp_connections::shake_hands(outgoing& to) {
  if (to.at == outgoing::stage::connecting) {
    if (!has_connected(to.socket) || !send_at_once(to.socket, to.hands.hello())) return false;
    to.at = outgoing::stage::greeting;
    watch_again(to.socket.get(), to.id, EPOLLIN | EPOLLRDHUP);
    return true;
  }
  if (!receive(to.socket, to.reply, to.got)) return false;
  if (to.got < to.reply.size()) return true;
  const auto agreed = to.hands.replied(to.reply);
  if (!agreed || !send_at_once(to.socket, agreed->proof)) return false;
  to.at = outgoing::stage::open;
  to.writer.emplace(self_, to.sealed ? std::optional(agreed->records) : std::nullopt);
  return true;
}

void tcp_connections::flush(outgoing& to) {
  peer& p = *to.to;
  bool full = false;
  for (std::size_t sent = 0; !full && to.writer->fill(p.queue);) {
    if (sent >= turn_bytes) {
      attend(p);
      break;
    }
    const auto pieces = to.writer->unwritten();
    std::array<iovec, 2> from{};
    for (std::size_t i = 0; i < from.size(); ++i)
      from[i] = {const_cast<std::byte*>(pieces[i].data()), pieces[i].size()};
    msghdr what{};
    what.msg_iov = from.data();
    what.msg_iovlen = from.size();
    const auto n = ::sendmsg(to.socket.get(), &what, MSG_NOSIGNAL);
    if (n >= 0) {
      to.writer->wrote(static_cast<std::size_t>(n));
      sent += static_cast<std::size_t>(n);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      full = true;
    } else if (errno != EINTR) {
      return close(p, clock::now() + reconnect_pause);
    }
  }
  const auto [messages, bytes] = to.writer->take_counts();
  counters_.messages_sent += messages;
  counters_.bytes_sent += bytes;
  if (full == to.waits_for_room) return;
  to.waits_for_room = full;
  watch_again(to.socket.get(), to.id, EPOLLIN | EPOLLRDHUP | (full ? static_cast<std::uint32_t>(EPOLLOUT) : 0U));
}

/// Drops what was to be sent, and the connection if there is one.
void tcp_connections::close(peer& p, time_point retry_at) {
  if (p.over) outgoing_.erase(p.over->id);
  p.over.reset();
  p.queue.clear();
  p.connect_after = retry_at;
}

}  // namespace baton
