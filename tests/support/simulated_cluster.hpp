#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "runtime/cluster/coordinator_logic.hpp"
#include "runtime/cluster/relay_logic.hpp"
#include "runtime/cluster/worker_logic.hpp"

namespace baton {

/// A rule of recovery that a simulation breaks on purpose, to see that it would be found.
enum class planted_bug : std::uint8_t {
  none,
  attempts_not_fenced,    ///< relays never hear of a fence's attempts
  holders_ignored,        ///< a replay is not told what has a holder, nor are relays
  places_not_told,        ///< workers never hear where a replayed rank is
  nothing_forwarded,      ///< relays do not send what a new place lacks
  tokens_forgotten,       ///< a question is asked again without the tokens that are known
  askings_not_numbered,   ///< a question that is asked again has the number that it had
  not_gathered_again,     ///< a rank never hears that the blocks which it left to holders are lost
  told_before_kept,       ///< an end is told, and memory freed, before the journal has it
  no_generations,         ///< a coordinator's start is not counted
  journal_not_fenced,     ///< a coordinator that was superseded may go on writing
  attempts_not_kept,      ///< the journal does not learn that a rank was lost
  askings_forgotten,      ///< a worker does not tell the next coordinator which asking it answers
  places_not_told_again,  ///< who is taken up does not hear where the other ranks are
};

/// A fault at one instant of an interleaving: after so many events.
struct planned_fault {
  static constexpr int coordinator_killed = -1;
  static constexpr int coordinator_superseded = -2;  ///< stopped, and going on when the next one is there
  static constexpr int link_cut = -10;  ///< between nodes 0 and 1; less by one: 0 and 2, then 1 and 2 (and so on)

  std::int64_t at = 0;
  int victim = 0;  ///< one of the above, or which of the living workers and relays
};

struct simulation_options {
  int nodes = 2;
  int devices = 2;  ///< of each node
  int ranks = 5;
  int layers = 3;
  int jobs = 2;
  int deaths_max = 2;
  int restarts_max = 0;       ///< of the coordinator
  int device_faults_max = 0;  ///< in workers that live on
  int damages_max = 0;        ///< of blocks in relays' logs
  int cuts_max = 0;           ///< of links between two nodes, for the rest of the run; the coordinator reaches both
  bool probes_get_lost = false;
  double cut_off_s = 0;  ///< coordinator_limits::cut_off_s; a step takes a millisecond
  int given_up_max = 0;  ///< workers and relays that wait for a coordinator for too long, and let go of what they hold
  bool impatient = false;  ///< a coordinator goes on without those who have not told it at once what they hold
  planted_bug bug = planted_bug::none;
  std::optional<std::vector<planned_fault>> faults{};  ///< in their order, instead of faults at random instants
};

/// A whole cluster in one thread: the coordinator_logic, relay_logic and worker_logic that run in production, over a network that
/// delays, reorders and repeats messages, and devices that compute nothing but who made what. One seed is one interleaving of
/// messages, steps, deaths and restarts.
///
/// The coordinator has a journal: what that has committed outlives it; workers and relays do, too, and compute, exchange and log meanwhile.
/// It is killed between any two events, and inside of one before and after each commit; or it is stopped, superseded by the next one, and
/// goes on with what it knows: whoever has joined the next one still gets its commands. Where no worker has died, no layer of a rank is
/// computed twice.
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
  [[nodiscard]] int restarts() const { return restarts_; }
  /// Whatever has changed anything: each leads to another state.
  [[nodiscard]] std::int64_t events() const { return events_; }
  [[nodiscard]] int replays() const { return replays_; }
  /// Messages that have gone through the relay of a third node.
  [[nodiscard]] std::int64_t carried() const { return carried_; }
  /// Jobs that a coordinator has gone on with that had not begun them.
  [[nodiscard]] int taken_up() const { return taken_up_; }
  [[nodiscard]] std::int64_t steps() const { return steps_; }

 private:
  struct data_message;
  struct shard;
  struct worker;
  struct relay;
  struct told;
  struct disk;
  struct office;
  class journal;

  [[nodiscard]] std::size_t any(std::size_t count) { return static_cast<std::size_t>(random_() % count); }
  [[nodiscard]] bool chance(int one_in) { return random_() % static_cast<unsigned>(one_in) == 0; }

  void start_node(int node);
  void start_worker(int node, int device);
  [[nodiscard]] office& newest() { return *offices_.back(); }
  void open_office();
  void kill_coordinator();
  /// Has a coordinator hear something; what it wants done is done, unless it dies over it.
  template <class Event>
  void have(office& o, Event&& event);
  void join_the_newest(worker& who);
  void join_the_newest(relay& who);
  [[nodiscard]] bool somebody_joins_the_newest();
  void client_connects();
  void perform(office& o, std::vector<coordinator_action>&& actions);
  void check_released(office& o, job_id run, bool everywhere);
  void check_end(job_id run);
  void somebody_gives_up();
  void deliver_command(office& o, peer_id to);
  void deliver_report(office& o, peer_id from);
  void deliver_request(office& o);
  void deliver_update(office& o);
  void tell_client(const client_update& update);
  void perform(worker& who);
  void compute(worker& who, const device_command& command);
  void perform(relay& who);
  [[nodiscard]] bool deliver(data_message& m);  ///< false: it is to come again
  [[nodiscard]] bool deliver_direct(data_message& m);
  /// Whether it has come there, over links that are not cut and, if its sender goes a detour, the relay in between.
  [[nodiscard]] bool travels(data_message& m, const std::string& to);
  [[nodiscard]] bool is_cut(const std::string& one, const std::string& other) const;
  [[nodiscard]] relay* relay_at(const std::string& address);
  [[nodiscard]] worker* worker_at(const std::string& address);
  void cut_a_link(std::optional<int> which = {});
  void probe(relay& who, const probe_paths& asked);
  [[nodiscard]] bool can_go_on(const worker& who, const shard& s) const;
  void step(worker& who, shard& s);
  void step_prefill(worker& who, shard& s);
  void step_answer(worker& who, shard& s);
  void give(worker& who, shard& s, int layer);
  void send_direct(worker& who, shard& s, std::uint32_t step, std::uint16_t part);
  [[nodiscard]] bool consume(worker& who, shard& s, const block_key& key);
  void kill(peer_id who);
  void kill_somebody(std::optional<int> which = {});
  [[nodiscard]] bool a_fault();
  void a_device_fails();
  [[nodiscard]] bool one_step();
  [[nodiscard]] std::string where_everybody_is() const;

  simulation_options options_;
  std::mt19937_64 random_;
  std::unique_ptr<disk> disk_;
  std::vector<std::unique_ptr<office>> offices_;  ///< one for each start of the coordinator
  double now_ = 1;
  peer_id last_peer_ = 0;
  std::map<peer_id, std::unique_ptr<worker>> workers_;
  std::map<peer_id, std::unique_ptr<relay>> relays_;
  std::map<peer_id, peer_id> became_;  ///< joined again, as another
  peer_id client_ = 0;
  std::size_t client_at_ = 0;  ///< the office that the client has found
  std::vector<data_message> network_;
  std::map<block_key, std::uint32_t> made_;            ///< what relays have taken last
  std::vector<std::pair<int, int>> dead_devices_;      ///< node, device (-1: the whole node)
  std::map<std::string, std::unique_ptr<told>> jobs_;  ///< by request id
  int deaths_ = 0;
  int restarts_ = 0;
  int device_faults_ = 0;
  int damages_ = 0;
  std::set<block_key> damaged_;
  std::map<std::string, int> homes_;   ///< node of each address
  std::set<std::pair<int, int>> cut_;  ///< links, the lower node first
  std::int64_t carried_ = 0;
  std::map<job_id, std::uint64_t> begun_by_;              ///< which coordinator a run is of
  std::map<job_id, job_id> jobs_of_runs_;                 ///< those whose ranks have begun
  std::set<job_id> checked_;                              ///< runs whose end has been checked
  std::map<std::tuple<job_id, int, int>, int> computed_;  ///< how often a job's rank has computed a layer
  int given_up_ = 0;
  std::size_t faults_ = 0;  ///< of options_.faults
  std::int64_t events_ = 0;
  int replays_ = 0;
  int taken_up_ = 0;
  int ended_ = 0;
  std::int64_t steps_ = 0;
};

}  // namespace baton
