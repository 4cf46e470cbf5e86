#include "actors/gate.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/observe/log.hpp"

namespace baton::actors {

void admissions::admit(const caf::node_id& process, const cluster_member& who) {
  const std::lock_guard lock(mutex_);
  if (members_.size() >= kept_max && !members_.contains(process)) {
    members_.erase(std::min_element(members_.begin(), members_.end(),
                                    [](const auto& a, const auto& b) { return a.second.first < b.second.first; }));
  }
  members_[process] = {++last_, who};
}

std::optional<cluster_member> admissions::whose(const caf::node_id& process) const {
  const std::lock_guard lock(mutex_);
  const auto found = members_.find(process);
  if (found == members_.end()) return std::nullopt;
  return found->second.second;
}

gate_actor spawn_gate(caf::actor_system& system, const coordinator_actor& coordinator, const cluster_identity* identity,
                      const secret_key& root, admissions& admitted) {
  return system.spawn(
      [=, &admitted](gate_actor::stateful_pointer<std::shared_ptr<doorkeeper>> self) -> gate_actor::behavior_type {
        self->state = std::make_shared<doorkeeper>(identity, root);
        self->monitor(coordinator);
        self->set_down_handler([self](caf::down_msg& down) { self->quit(down.reason); });
        // The number of the actor that asks, in its process: whoever guesses another's disturbs that one's join, and nothing else.
        const auto newcomer = [self] {
          const auto& asking = self->current_sender();
          return asking ? std::hash<std::string>()(to_string(asking)) : 0;
        };
        return {
            [=](hello_atom, const std::string& hello) -> caf::result<std::string> {
              try {
                if (auto challenge = self->state->greeted(newcomer(), hello, doorkeeper::time_point::clock::now()))
                  return std::move(*challenge);
              } catch (const std::exception& why) {
                return caf::make_error(caf::sec::runtime_error, std::string(why.what()));
              }
              return caf::make_error(caf::sec::invalid_argument, std::string("this is no hello"));
            },
            [=, &admitted](prove_atom, const std::string& proof) -> caf::result<coordinator_actor, std::string> {
              if (!self->current_sender()) return caf::make_error(caf::sec::invalid_argument, std::string("who asks?"));
              try {
                auto admission = self->state->proven(newcomer(), proof, doorkeeper::time_point::clock::now());
                if (admission) {
                  if (admission->who) admitted.admit(self->current_sender()->node(), *admission->who);
                  return {coordinator, std::move(admission->bytes)};
                }
              } catch (const std::exception& why) {
                return caf::make_error(caf::sec::runtime_error, std::string(why.what()));
              }
              log_line(log_level::warning, "somebody with this cluster's certificates could not prove who it is");
              return caf::make_error(caf::sec::invalid_argument, std::string("this proves nothing"));
            },
        };
      });
}

}  // namespace baton::actors
