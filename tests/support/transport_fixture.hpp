#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/relay/relay.hpp"
#include "runtime/relay/relay_log.hpp"
#include "runtime/transport/local.hpp"
#include "runtime/transport/process_network.hpp"
#include "tests/support/faulty_messenger.hpp"

namespace baton {

/// A network with room for jobs of seven ranks, for tests that hold for every kind of network.
class transport_fixture {
 public:
  static constexpr int ranks = 7;

  virtual ~transport_fixture() = default;
  /// For devices in the process where `rank` lives.
  [[nodiscard]] virtual std::unique_ptr<endpoint> make_endpoint(int rank) = 0;
  /// As the process where `rank` lives is told.
  [[nodiscard]] virtual job_routes routes(int rank) const = 0;
  /// Makes room for the job's compressed blocks. Before anybody joins.
  virtual void admit(job_id job) = 0;
};

/// All ranks in one process.
class local_fixture final : public transport_fixture {
 public:
  [[nodiscard]] std::unique_ptr<endpoint> make_endpoint(int) override { return network_.make_endpoint(); }
  [[nodiscard]] job_routes routes(int) const override { return {std::vector<rank_place>(ranks), {}}; }
  void admit(job_id job) override;

 private:
  relay_log log_{std::int64_t{1} << 30};
  local_network network_{log_};
};

/// Ranks 0, 1 and 4 in process 0, rank 2 in process 1, both on node 0; ranks 3, 5 and 6 in process 2, and nobody yet in process 3,
/// both on node 1. Each node has a relay in a process of its own. All are parts of this program and have nothing in common but
/// the messengers, which are of the kind to be tested.
class process_fixture : public transport_fixture {
 public:
  using messenger_maker = std::function<std::unique_ptr<messenger>()>;
  static constexpr int processes = 4;
  static constexpr int spare = 3;

  explicit process_fixture(messenger_maker make);

  [[nodiscard]] std::unique_ptr<endpoint> make_endpoint(int rank) override;
  [[nodiscard]] job_routes routes(int rank) const override { return routes_in(process_of(rank)); }
  void admit(job_id job) override;

  [[nodiscard]] static int process_of(int rank) { return process_of_rank.at(static_cast<std::size_t>(rank)); }
  [[nodiscard]] static int node_of(int process) { return process < 2 ? 0 : 1; }
  [[nodiscard]] job_routes routes_in(int process) const;
  [[nodiscard]] process_network& network(int process) {
    return *workers_.at(static_cast<std::size_t>(process)).network;
  }
  [[nodiscard]] const std::string& address(int process) const;
  [[nodiscard]] const std::string& relay_address(int node) const;
  /// A process that takes no part in any job; nobody listens there.
  [[nodiscard]] messenger& stranger() { return *stranger_; }

  /// A stopped process hears nothing and does nothing by itself until it goes on. Here its listener is taken away; what comes is
  /// kept.
  virtual void stop(int process);
  virtual void go_on(int process);
  /// The process is gone, without a word to anybody; here, with its messenger. Its endpoints must be gone before.
  virtual void kill(int process);

 protected:
  /// Every process hears from every other; returns when all have.
  void introduce_everybody();

 private:
  static constexpr std::array<int, ranks> process_of_rank{0, 0, 1, 2, 0, 2, 2};

  struct worker_process {
    std::unique_ptr<messenger> post;
    std::unique_ptr<process_network> network;
    std::string address{};  ///< also when it is gone
  };
  struct relay_process {
    std::unique_ptr<messenger> post;
    std::unique_ptr<relay_log> log;
    std::unique_ptr<relay> listener;
  };

  const messenger_maker make_;  ///< may own what the messengers borrow: it goes last
  std::unique_ptr<messenger> stranger_;
  std::vector<relay_process> relays_;
  std::vector<worker_process> workers_;
};

/// The same over a network that misbehaves.
class faulty_fixture final : public process_fixture {
 public:
  explicit faulty_fixture(const fault_plan& plan) : faulty_fixture(std::make_shared<faulty_network>(plan)) {}

  [[nodiscard]] faulty_network& faults() { return *faults_; }
  void stop(int process) override { faults_->stop(address(process)); }
  void go_on(int process) override { faults_->go_on(address(process)); }
  void kill(int process) override;

 private:
  explicit faulty_fixture(const std::shared_ptr<faulty_network>& faults)
      : process_fixture([faults] { return faults->make_messenger(); }), faults_(faults) {}

  std::shared_ptr<faulty_network> faults_;
};

/// The same over UCX. Everybody is connected before a test begins: UCX 1.13 aborts the program (ucp_request.c, "got REP message") when a
/// peer goes away while it is just being connected to, and here processes go away in one program with the others.
class ucx_fixture final : public process_fixture {
 public:
  ucx_fixture();
};

/// The same over TCP, plain or sealed.
class tcp_fixture final : public process_fixture {
 public:
  explicit tcp_fixture(bool sealed);
};

/// A rank with a device of its own.
struct rank_seat {
  std::unique_ptr<endpoint> door;
  std::unique_ptr<transport> network;
};
[[nodiscard]] rank_seat take_seat(transport_fixture& fixture, job_id job, int rank);

/// Sleeps at the door until the transfer is done, as a device does. False: it is not after a minute.
[[nodiscard]] bool arrives(transfer& moving, endpoint& door);

/// The bytes that a test gives the block with this key, different for each.
[[nodiscard]] std::vector<std::byte> bytes_for(const block_key& key, std::size_t size);

}  // namespace baton
