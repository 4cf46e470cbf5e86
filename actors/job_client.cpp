#include "actors/job_client.hpp"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

#include "actors/guard.hpp"
#include "runtime/wire/codec.hpp"

namespace baton::actors {

class job_client::inbox {
 public:
  void put(client_update update) {
    {
      const std::lock_guard lock(mutex_);
      updates_.push_back(std::move(update));
    }
    moved_.notify_one();
  }
  /// The first reason stays.
  void close(const std::string& why) {
    {
      const std::lock_guard lock(mutex_);
      if (!closed_) closed_ = why;
    }
    moved_.notify_one();
  }
  std::optional<client_update> take(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    moved_.wait_for(lock, patience, [this] { return !updates_.empty() || closed_; });
    if (!updates_.empty()) {
      auto update = std::move(updates_.front());
      updates_.pop_front();
      return update;
    }
    if (closed_) throw fault(fault_code::lost_peer, *closed_, "coordinator");
    return {};
  }

 private:
  std::mutex mutex_;
  std::condition_variable moved_;
  std::deque<client_update> updates_;
  std::optional<std::string> closed_;
};

job_client::job_client(caf::actor_system& system, const coordinator_actor& coordinator)
    : coordinator_(coordinator), inbox_(std::make_shared<inbox>()) {
  self_ = system.spawn([coordinator, box = inbox_](client_actor::pointer self) -> client_actor::behavior_type {
    self->monitor(coordinator);
    self->set_down_handler([self, box](caf::down_msg& down) {
      box->close("it is gone: " + self->system().render(down.reason));
      self->quit(down.reason);
    });
    self->attach_functor([box](const caf::error&) { box->close("it has dropped this client"); });
    self->send(self, tick_atom::value);
    return {
        [self, box](const client_update_bytes& m) {
          guard(self, [&] {
            try {
              box->put(decode_client_update(m.bytes));
            } catch (const fault& why) {
              box->close(why.what());
              throw;
            }
          });
        },
        [self, coordinator](tick_atom) {
          self->delayed_send(self, std::chrono::milliseconds(500), tick_atom::value);
          self->send(coordinator, client_actor(self), client_request_bytes{encode(client_request(client_alive{}))});
        },
    };
  });
}

job_client::~job_client() { caf::anon_send_exit(self_, caf::exit_reason::user_shutdown); }

void job_client::submit(submit_job request, std::span<const std::int32_t> document,
                        std::span<const std::int32_t> query) {
  const std::string name = request.request_id;
  caf::anon_send(coordinator_, self_, client_request_bytes{encode(client_request(std::move(request)))});
  std::int64_t sent = 0;
  for (const auto ids : {document, query}) {
    for (std::size_t first = 0; first < ids.size(); first += ids_per_message) {
      const auto piece = ids.subspan(first, std::min<std::size_t>(ids_per_message, ids.size() - first));
      caf::anon_send(
          coordinator_, self_,
          client_request_bytes{encode(client_request(submit_ids{name, sent, {piece.begin(), piece.end()}}))});
      sent += static_cast<std::int64_t>(piece.size());
    }
  }
}

void job_client::ask(const client_request& request) {
  caf::anon_send(coordinator_, self_, client_request_bytes{encode(request)});
}

std::optional<client_update> job_client::next(std::chrono::milliseconds patience) {
  auto update = inbox_->take(patience);
  if (update && ++read_ == first_credit / 4) ask(grant_updates{std::exchange(read_, 0)});
  return update;
}

}  // namespace baton::actors
