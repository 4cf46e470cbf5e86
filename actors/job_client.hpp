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

/// A thread's way to ask the coordinator for a job and to follow it. One thread; the actor behind it ends with the object, and
/// with it the job, if it still runs.
class job_client {
 public:
  job_client(caf::actor_system& system, const coordinator_actor& coordinator);
  ~job_client();
  job_client(const job_client&) = delete;
  job_client& operator=(const job_client&) = delete;

  /// Sends the job and its ids. `request` names document_tokens and query_tokens as the spans have them.
  void submit(submit_job request, std::span<const std::int32_t> document, std::span<const std::int32_t> query);
  void cancel(job_id job);
  /// The next thing that the coordinator said, or nothing within `patience`. Throws fault(lost_peer) once it is gone.
  [[nodiscard]] std::optional<client_update> next(std::chrono::milliseconds patience);

 private:
  class inbox;

  caf::actor_system& system_;
  coordinator_actor coordinator_;
  std::shared_ptr<inbox> inbox_;  ///< the actor's and this object's
  client_actor self_;
};

}  // namespace baton::actors
