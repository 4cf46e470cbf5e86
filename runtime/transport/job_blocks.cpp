#include "runtime/transport/job_blocks.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "kernels/fault.hpp"

namespace baton {

job_blocks::job_blocks(std::string here, const job_routes& routes)
    : here_(std::move(here)), places_(routes.ranks), relay_(routes.relay) {}

void job_blocks::enter(int rank, doorbell& bell) {
  auto& entry = ranks_here_[rank];
  if (entry.bell) throw fault(fault_code::internal, fmt::format("rank {} joins twice", rank));
  entry.bell = &bell;
}

bool job_blocks::leave(int rank) {
  auto& entry = ranks_here_.at(rank);
  entry.bell = nullptr;
  entry.read.clear();
  entry.given.clear();
  for (auto at = relayed_.begin(); at != relayed_.end();) {
    at->second.readers.erase(rank);
    at = at->second.readers.empty() ? relayed_.erase(at) : std::next(at);
  }
  return std::none_of(ranks_here_.begin(), ranks_here_.end(),
                      [](const auto& numbered) { return numbered.second.bell; });
}

bool job_blocks::move(int rank, const rank_place& place) {
  auto& known = places_.at(static_cast<std::size_t>(rank));
  if (place.attempt < known.attempt) return false;
  known = place;
  for (auto& [number, entry] : ranks_here_) {
    std::erase_if(entry.mailbox,
                  [&](const auto& keyed) { return keyed.first.source == rank && keyed.first.attempt < place.attempt; });
  }
  return true;
}

bool job_blocks::lives_here(int rank) const {
  const auto& address = place_of(rank).address;
  return address.empty() || address == here_;
}

std::set<std::string> job_blocks::processes_of(rank_range targets, int source) const {
  std::set<std::string> addresses;
  for (int rank = std::max(targets.first, 0); rank < std::min(targets.last, ranks()); ++rank) {
    if (rank != source && !lives_here(rank)) addresses.insert(place_of(rank).address);
  }
  return addresses;
}

bool job_blocks::concerns(rank_range targets, int source) const {
  for (int rank = std::max(targets.first, 0); rank < std::min(targets.last, ranks()); ++rank) {
    if (rank != source && lives_here(rank)) return true;
  }
  return false;
}

void job_blocks::came_direct(const block_key& key, rank_range targets, const std::shared_ptr<const block>& b) {
  if (!has(key.source) || key.attempt < place_of(key.source).attempt) return;
  for (int rank = std::max(targets.first, 0); rank < std::min(targets.last, ranks()); ++rank) {
    if (rank == key.source || !lives_here(rank)) continue;
    auto& entry = ranks_here_[rank];
    const auto [at, is_new] = entry.mailbox.emplace(key, b);
    // The order leaves the attempt out, so a later one must take the place of key and block.
    if (!is_new && at->first.attempt < key.attempt) {
      entry.mailbox.erase(at);
      entry.mailbox.emplace(key, b);
    }
    if (entry.bell) entry.bell->ring();
  }
}

std::shared_ptr<const block> job_blocks::take_direct(int rank, const block_key& key) {
  auto& mailbox = ranks_here_.at(rank).mailbox;
  const auto found = mailbox.find(key);
  if (found == mailbox.end()) return nullptr;
  auto b = std::move(found->second);
  mailbox.erase(found);
  return b;
}

void job_blocks::hold(std::map<block_key, relayed_block>::iterator at, rank_range targets,
                      std::shared_ptr<const block> b) {
  const auto& key = at->first;
  auto& relayed = at->second;
  for (auto& [rank, entry] : ranks_here_) {
    if (entry.bell && rank != key.source && targets.contains(rank) && !entry.read.contains(key))
      relayed.readers.insert(rank);
  }
  if (relayed.readers.empty()) {
    relayed_.erase(at);
    return;
  }
  relayed.held = std::move(b);
  for (const int rank : relayed.readers) ranks_here_.at(rank).bell->ring();
}

void job_blocks::given_here(const block_key& key, rank_range targets, std::shared_ptr<const block> b) {
  ranks_here_.at(key.source).given.insert(key);
  const auto at = relayed_.try_emplace(key).first;
  if (!at->second.held) hold(at, targets, std::move(b));
}

void job_blocks::answered(const block_key& key, rank_range targets, std::shared_ptr<const block> b) {
  const auto at = relayed_.find(key);
  if (at != relayed_.end() && !at->second.held) hold(at, targets, std::move(b));
}

std::shared_ptr<const block> job_blocks::take_relayed(int rank, const block_key& key) {
  const auto at = relayed_.find(key);
  if (at == relayed_.end() || !at->second.held) return nullptr;
  auto b = at->second.held;
  ranks_here_.at(rank).read.insert(key);
  at->second.readers.erase(rank);
  if (at->second.readers.empty()) relayed_.erase(at);
  return b;
}

bool job_blocks::miss(int rank, const block_key& key, time now) {
  const auto [at, is_new] = relayed_.try_emplace(key);
  at->second.readers.insert(rank);
  if (is_new) at->second.ask_again = now + want_again;
  return is_new && !will_be_given_here(key);
}

bool job_blocks::will_be_given_here(const block_key& key) const {
  // A later attempt may leave out what its relay has had from an earlier one.
  const auto source = ranks_here_.find(key.source);
  return source != ranks_here_.end() && source->second.bell && place_of(key.source).attempt == 0 &&
         !source->second.given.contains(key);
}

std::vector<block_key> job_blocks::due(time now) {
  std::vector<block_key> keys;
  for (auto& [key, relayed] : relayed_) {
    if (relayed.held || relayed.ask_again > now) continue;
    relayed.ask_again = now + want_again;
    keys.push_back(key);
  }
  return keys;
}

}  // namespace baton
