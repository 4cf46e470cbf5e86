#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "runtime/cluster/coordinator_logic.hpp"
#include "runtime/cluster/relay_logic.hpp"
#include "runtime/cluster/worker_logic.hpp"

namespace baton {

/// A rule of recovery that a simulation breaks on purpose, to see that it would be found.
enum class planted_bug : std::uint8_t {
  none,
  attempts_not_fenced,   ///< relays never hear of a fence's attempts
  holders_ignored,       ///< a replay is not told what has a holder, nor are relays
  places_not_told,       ///< workers never hear where a replayed rank is
  nothing_forwarded,     ///< relays do not send what a new place lacks
  tokens_forgotten,      ///< a question is asked again without the tokens that are known
  askings_not_numbered,  ///< a question that is asked again has the number that it had
};

struct simulation_options {
  int nodes = 2;
  int devices = 2;  ///< of each node
  int ranks = 5;
  int layers = 3;
  int jobs = 2;
  int deaths_max = 2;
  planted_bug bug = planted_bug::none;
};

/// A whole cluster in one thread: the coordinator_logic, relay_logic and worker_logic that run in production, over a network that
/// delays, reorders and repeats messages, and devices that compute nothing but who made what. One seed is one interleaving of
/// messages, steps, deaths and restarts.
///
/// A block's value is the attempt that made it, as if every device had a kernel class of its own; a token is drawn at random when it is
/// chosen. So ranks that do not see the same values, and tokens that are chosen twice, are noticed.
class simulated_cluster {
 public:
  simulated_cluster(std::uint64_t seed, const simulation_options& options);
  ~simulated_cluster();

  /// Until every job has ended and been checked. Throws std::runtime_error that says which promise was broken.
  void run();
  [[nodiscard]] int deaths() const { return deaths_; }
  [[nodiscard]] int replays() const { return replays_; }
  [[nodiscard]] std::int64_t steps() const { return steps_; }

 private:
  struct data_message;
  struct shard;
  struct worker;
  struct relay;
  struct told;

  [[nodiscard]] std::size_t any(std::size_t count) { return static_cast<std::size_t>(random_() % count); }
  [[nodiscard]] bool chance(int one_in) { return random_() % static_cast<unsigned>(one_in) == 0; }

  void start_node(int node);
  void start_worker(int node, int device);
  void submit(int number);
  void perform(std::vector<coordinator_action>&& actions);
  void deliver_command(peer_id to);
  void deliver_report(peer_id from);
  void tell_client(const client_update& update);
  void perform(worker& who);
  void compute(worker& who, const device_command& command);
  void perform(relay& who);
  [[nodiscard]] bool deliver(data_message& m);  ///< false: it is to come again
  [[nodiscard]] bool deliver_direct(const data_message& m);
  [[nodiscard]] bool can_go_on(const worker& who, const shard& s) const;
  void step(worker& who, shard& s);
  void step_prefill(worker& who, shard& s);
  void step_answer(worker& who, shard& s);
  void give(worker& who, shard& s, int layer);
  void send_direct(worker& who, shard& s, std::uint32_t step, std::uint16_t part);
  [[nodiscard]] bool consume(worker& who, shard& s, const block_key& key);
  void kill(peer_id who);
  void kill_somebody();
  [[nodiscard]] bool one_step();
  [[nodiscard]] std::string where_everybody_is() const;
  void check_finished(const job_finished& done);

  simulation_options options_;
  std::mt19937_64 random_;
  std::unique_ptr<coordinator_logic> coordinator_;
  double now_ = 1;
  peer_id last_peer_ = 0;
  std::map<peer_id, std::unique_ptr<worker>> workers_;
  std::map<peer_id, std::unique_ptr<relay>> relays_;
  std::map<peer_id, std::deque<std::variant<worker_command, relay_command>>> commands_;
  std::map<peer_id, std::deque<std::variant<worker_report, relay_report, std::monostate>>>
      reports_;  ///< monostate: gone
  std::vector<data_message> network_;
  std::map<block_key, std::uint32_t> made_;        ///< what relays have taken last
  std::vector<std::pair<int, int>> dead_devices_;  ///< node, device (-1: the whole node)
  std::map<job_id, std::unique_ptr<told>> jobs_;
  int deaths_ = 0;
  int replays_ = 0;
  int ended_ = 0;
  std::int64_t steps_ = 0;
};

}  // namespace baton
