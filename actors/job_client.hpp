#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "actors/messages.hpp"
#include "runtime/cluster/messages.hpp"

namespace baton::actors {

/// A thread's way to ask the coordinator for things, and to follow jobs. One thread; the actor behind it ends with the object, and
/// with it the jobs that it has asked for, unless they are detached. It gives signs of life by itself; that it can take more is told
/// as the thread reads.
class job_client {
 public:
  /// Updates that the coordinator may send before anything is read.
  static constexpr std::uint32_t first_credit = 64;

  job_client(caf::actor_system& system, const coordinator_actor& coordinator);
  ~job_client();
  job_client(const job_client&) = delete;
  job_client& operator=(const job_client&) = delete;

  /// Sends the job and its ids. `request` names document_tokens and query_tokens as the spans have them.
  void submit(submit_job request, std::span<const std::int32_t> document, std::span<const std::int32_t> query);
  void ask(const client_request& request);
  void cancel(job_id job) { ask(cancel_job{job}); }
  /// The next thing that the coordinator said, or nothing within `patience`. Throws fault(lost_peer) once it is gone.
  [[nodiscard]] std::optional<client_update> next(std::chrono::milliseconds patience);

 private:
  class inbox;

  coordinator_actor coordinator_;
  std::shared_ptr<inbox> inbox_;  ///< the actor's and this object's
  client_actor self_;
  std::uint32_t read_ = 0;  ///< since the last grant
};

}  // namespace baton::actors
