#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "runtime/transport/doorbell.hpp"
#include "runtime/transport/transport.hpp"

namespace baton {

/// One job in one process among many: where its ranks are, what has come for those that live here and has not been read, what the
/// relay has been asked for. Bookkeeping only; blocks are shared, never copied. Not synchronized.
class job_blocks {
 public:
  using time = std::chrono::steady_clock::time_point;

  /// A want is repeated after this long.
  static constexpr std::chrono::seconds want_again{1};

  /// `here`: this process's address.
  job_blocks(std::string here, const job_routes& routes);

  // ---- ranks ----

  /// A rank joins here; its bell rings when something has come for it. fault(internal) if it is there already.
  void enter(int rank, doorbell& bell);
  /// True: nobody is left.
  bool leave(int rank);
  /// A rank is somewhere else now; direct blocks of its earlier attempts are dropped. False: the place is an earlier one.
  bool move(int rank, const rank_place& place);
  void set_relay(const std::string& relay) { relay_ = relay; }

  [[nodiscard]] const std::string& relay() const { return relay_; }
  [[nodiscard]] int ranks() const { return static_cast<int>(places_.size()); }
  [[nodiscard]] const rank_place& place_of(int rank) const { return places_.at(static_cast<std::size_t>(rank)); }
  [[nodiscard]] bool lives_here(int rank) const;
  /// Addresses of the other processes where one of `targets` lives, the block's source aside.
  [[nodiscard]] std::set<std::string> processes_of(rank_range targets, int source) const;
  /// Whether one of `targets` lives here, the block's source aside.
  [[nodiscard]] bool concerns(rank_range targets, int source) const;

  // ---- direct blocks: a mailbox for each rank ----

  /// Into the mailboxes of those of `targets` that live here, but not from an earlier attempt than is known of the source.
  void came_direct(const block_key& key, rank_range targets, const std::shared_ptr<const block>& b);
  /// Null: not here (yet).
  [[nodiscard]] std::shared_ptr<const block> take_direct(int rank, const block_key& key);

  // ---- relayed blocks: held once, until everybody here has read them ----

  /// A rank of this process gave it away: the others need not ask the relay.
  void given_here(const block_key& key, rank_range targets, std::shared_ptr<const block> b);
  /// What nobody has asked for is dropped. `targets` may be empty: then it is for those who have asked.
  void answered(const block_key& key, rank_range targets, std::shared_ptr<const block> b);
  /// Null: not here (yet).
  [[nodiscard]] std::shared_ptr<const block> take_relayed(int rank, const block_key& key);
  /// A rank misses a block. True: the relay is to be asked now; nobody here has. One that a rank here has yet to give away for the
  /// first time need not be asked for at once.
  [[nodiscard]] bool miss(int rank, const block_key& key, time now);
  /// What the relay is to be asked for again.
  [[nodiscard]] std::vector<block_key> due(time now);

 private:
  struct rank_here {
    doorbell* bell = nullptr;  ///< of the rank's device, while it has joined
    std::map<block_key, std::shared_ptr<const block>> mailbox;
    std::set<block_key> read;   ///< relayed blocks: what comes again is not held for this rank
    std::set<block_key> given;  ///< relayed blocks of the rank's own
  };
  struct relayed_block {
    std::shared_ptr<const block> held;  ///< null: asked for
    std::set<int> readers;              ///< who have yet to read it
    time ask_again;
  };

  [[nodiscard]] bool will_be_given_here(const block_key& key) const;
  [[nodiscard]] bool has(int rank) const { return rank >= 0 && rank < ranks(); }
  void hold(std::map<block_key, relayed_block>::iterator at, rank_range targets, std::shared_ptr<const block> b);

  const std::string here_;
  std::vector<rank_place> places_;
  std::string relay_;
  std::map<int, rank_here> ranks_here_;
  std::map<block_key, relayed_block> relayed_;
};

}  // namespace baton
