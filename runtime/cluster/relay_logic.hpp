#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/cluster/messages.hpp"
#include "runtime/transport/messenger.hpp"

namespace baton {

/// What becomes of a block that a relay is offered.
enum class block_verdict : std::uint8_t {
  take,  ///< it is to be put into the log
  drop,  ///< nobody needs it: it is there, its job is unknown (released, failed or never admitted), or an older attempt's
  later,  ///< which attempt's blocks count is being settled: it is to be offered again
};

/// A block of the log that is to go to another process: a `forward` to a relay or an `answer` to whoever asked.
struct send_block {
  std::string to;
  message_kind kind = message_kind::answer;
  block_key key;
  rank_range targets;

  bool operator==(const send_block&) const = default;
};

using relay_action = std::variant<relay_report, send_block>;

/// Decides what a KV relay does: which blocks it keeps, to whom it sends them, what it tells the coordinator. It is told what
/// became of the log and does not touch it. Events in, actions out; no CAF, no clock, no messenger. One thread at a time.
class relay_logic {
 public:
  /// Wants that are remembered for one job; one that comes on top is dropped, and will be repeated.
  static constexpr std::size_t wants_max = std::size_t{1} << 16;

  /// `address`: this relay's on the data plane; empty where all ranks share one process.
  explicit relay_logic(std::string address) : address_(std::move(address)) {}

  // ---- the coordinator, and what the log says to it ----

  /// A command has come. Nothing: a coordinator says it that is earlier than one that has been heard, and it is not to be obeyed. Else the
  /// runs whose logs go, because this later coordinator has not been told of them.
  [[nodiscard]] std::optional<std::vector<job_id>> heeds(std::uint64_t generation);
  /// What a coordinator is told that the relay joins: runs whose logs have outlived an earlier one.
  [[nodiscard]] std::vector<job_id> joins();
  /// Says again which blocks were damaged and have not come again, for an earlier coordinator may not have heard it.
  void tells_damages_again();
  void log_reserved_for(const reserve_log& command);
  void log_refused_for(const reserve_log& command, std::int64_t bytes_free);
  void log_refused_for(const reserve_log& command, const fault& why);
  /// The log of a job that was admitted cannot be kept: said once, for then the job is not known any more.
  void log_broke(job_id job, const fault& why);
  void job_released(job_id job) { jobs_.erase(job); }
  /// What the log gave back was damaged when it was to be sent: the coordinator sees to it that it comes again, and it is sent then.
  /// False: that has happened to this block before, so the disk is to blame.
  [[nodiscard]] bool block_was_damaged(const send_block& sending);
  /// Answered by job_fenced with what is held.
  void job_fenced_by(const fence_job& command);
  /// After the fence of the same round: sends the blocks that others need.
  void blocks_placed_by(const place_blocks& command);

  // ---- the data plane ----

  /// First holder wins, and of a replayed rank the holders that the coordinator has named.
  [[nodiscard]] block_verdict judge(const block_key& key) const;
  [[nodiscard]] bool holds(const block_key& key) const;
  /// A block of this node's ranks is in the log now: it goes once to each other node that hosts one of `targets`, and to whoever
  /// waits for it here.
  void block_given(const std::string& from, const block_key& key, rank_range targets);
  /// The same for what another relay sends: a block of another node's ranks goes no further, for that node's relay sends it to everybody.
  void block_forwarded(const block_key& key, rank_range targets);
  /// Answered at once, or as soon as the block is there; the answer says who else is to get it.
  void block_wanted(const std::string& from, const block_key& key);

  /// What is to be done now, in order; empties the list.
  [[nodiscard]] std::vector<relay_action> take_actions() { return std::exchange(actions_, {}); }

 private:
  struct job_entry {
    std::vector<std::string> relays;                     ///< address of the relay of each rank's node
    std::map<block_key, rank_range> held;                ///< in the log, with their targets
    std::map<block_key, std::set<std::string>> waiting;  ///< who asked for what is not there yet
    std::size_t wants = 0;                               ///< in `waiting`
    std::set<block_key> damaged{};                       ///< once

    std::uint64_t round = 0;              ///< of the newest fence
    std::vector<std::uint32_t> attempts;  ///< of each rank; empty: all are 0
    /// Blocks of this node's ranks that came after the newest fence had been answered: place_blocks does not know of them.
    std::vector<std::pair<block_key, rank_range>> given_since_fence{};
    std::set<int> unsettled;  ///< replayed ranks, from a fence to its place_blocks
    /// Of replayed ranks: the layers whose copies by an earlier attempt count, and by which.
    std::map<int, std::map<std::int32_t, std::uint32_t>> holders{};
  };

  /// The other nodes where one of `targets` is, those of lower ranks first.
  [[nodiscard]] std::vector<std::string> others_of(const job_entry& job, rank_range targets) const;
  void keep(job_entry& job, const block_key& key, rank_range targets);

  const std::string address_;
  std::uint64_t generation_ = 0;  ///< the highest that a command was of
  std::set<job_id> told_;         ///< to the coordinator that it has joined last
  std::map<job_id, job_entry> jobs_;
  std::vector<relay_action> actions_;
};

}  // namespace baton
