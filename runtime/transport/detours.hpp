#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "runtime/transport/messenger.hpp"

/// Two processes that cannot reach each other talk through the relay of a third node. What one says to the other goes to that relay as
/// the payload of a `carry`, with both names, and from there on as it is. The relay in between keeps nothing and acknowledges nothing: what
/// is lost there the sender sends again, as it would on a straight way. Checksums, delivery numbers and whatever fences a block are
/// those of the two ends.
namespace baton {

/// Two nodes whose processes do not reach each other, and a third one in between: addresses of their relays.
struct detour {
  std::string one;
  std::string other;
  std::string via;

  bool operator==(const detour&) const = default;
};

/// A message as it stands in a `carry`.
struct carried_message {
  std::string from;
  std::string to;
  message what;  ///< without its payload
  bool has_payload = false;
  std::uint64_t checksum = 0;            ///< of the payload, as its sender computed it
  std::span<const std::byte> payload{};  ///< a view into the carry's
};

/// Bytes that are on their way to one process through another, from a carry's making until the messenger has sent or dropped it: they
/// are bounded, and what there is no room for is lost, to be sent again later. Any thread.
class carried_bytes : public std::enable_shared_from_this<carried_bytes> {
 public:
  static constexpr std::int64_t bytes_max = 64 << 20;
  /// Acknowledgements and probes always go.
  static constexpr std::int64_t small = 1024;

  /// The block, counted for as long as somebody has it; null where there is no room. One that is larger than all room goes alone.
  [[nodiscard]] std::shared_ptr<const block> admit(std::shared_ptr<const block> b);
  [[nodiscard]] std::int64_t under_way() const { return bytes_.load(); }

 private:
  std::atomic<std::int64_t> bytes_ = 0;
};

/// A message for `to`, to be given to the relay in between; nothing where it is too long to be carried.
[[nodiscard]] std::optional<message> carry_of(const std::string& from, const std::string& to, const message& m);
/// Nothing where it is no carry. Its payload's checksum is not looked at.
[[nodiscard]] std::optional<carried_message> read_carry(const message& carry);
/// The message itself, with a copy of its payload; nothing where that was damaged.
[[nodiscard]] std::optional<message> opened(const carried_message& carried);

/// Which processes this one reaches through a third node's relay, for each job, and for which jobs it is that relay itself. Bookkeeping
/// only; not synchronized.
class detours {
 public:
  /// By the address of whom this process does not reach: that of the relay in between. Takes the place of what was known of the job.
  /// Returns who is reached on another way than before.
  std::vector<std::string> lead(job_id job, std::map<std::string, std::string> ways);
  /// The same for the relay at `here`, which may be an end of some and in between of others: all of the job's.
  std::vector<std::string> lead_relay(job_id job, const std::string& here, std::span<const detour> all);
  void forget_job(job_id job);

  /// The relay through which a message for `to` goes; null: straight. What belongs to no job goes as any job's does.
  [[nodiscard]] const std::string* way_to(const std::string& to, const message& m) const;
  /// Whether what came from `via` under somebody else's name is to be heard: that way has been agreed on.
  [[nodiscard]] bool comes_by(const std::string& via, const carried_message& carried) const;
  /// Whether this relay passes on what `from` has given it.
  [[nodiscard]] bool passes_on(const std::string& from, const carried_message& carried) const;
  /// Counts what is under way to `to`.
  [[nodiscard]] std::shared_ptr<carried_bytes> bytes_to(const std::string& to);

 private:
  std::map<job_id, std::map<std::string, std::string>> ways_;
  std::set<job_id> carried_jobs_;
  std::map<std::string, std::shared_ptr<carried_bytes>> bytes_;
};

}  // namespace baton
