#include "runtime/relay/relay_log.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "kernels/fault.hpp"
#include "runtime/relay/unlinked_file.hpp"

namespace baton {

/// One job's share of memory and disk, and what is in it. Bytes are moved outside the lock.
class relay_log::job_room {
 public:
  job_room(std::int64_t memory_bytes, std::int64_t disk_bytes, const std::filesystem::path& directory)
      : memory_bytes_(memory_bytes), disk_bytes_(disk_bytes) {
    if (disk_bytes > 0) file_.emplace(directory, disk_bytes);
  }

  [[nodiscard]] std::int64_t memory_bytes() const { return memory_bytes_; }
  [[nodiscard]] std::int64_t disk_bytes() const { return disk_bytes_; }

  bool put(const block_key& key, std::shared_ptr<const block>&& b) {
    const auto bytes = static_cast<std::int64_t>(b->bytes.size());
    std::int64_t first_bytes = 0;
    std::int64_t offset = 0;
    {
      const std::lock_guard lock(mutex_);
      const auto known = entries_.find(key);
      if (known != entries_.end() && !known->second.forgotten) return false;
      if (known != entries_.end()) {
        if (known->second.bytes != bytes)
          throw fault(fault_code::corruption, "a block of another length", describe(key));
        first_bytes = known->second.first_bytes;
        offset = known->second.offset;
      } else if (const std::int64_t used = memory_used_ + disk_used_; used + bytes > memory_bytes_ + disk_bytes_) {
        throw fault(fault_code::internal,
                    fmt::format("a block of {} bytes exceeds the job's log of {}, {} used", bytes,
                                memory_bytes_ + disk_bytes_, used),
                    describe(key));
      }
      if (known == entries_.end()) {
        // One block may stand across the edge, so that none of the room is lost to it.
        first_bytes = std::min(bytes, memory_bytes_ - memory_used_);
        offset = disk_used_;
        memory_used_ += first_bytes;
        disk_used_ += bytes - first_bytes;
      }
      auto& e = entries_[key];
      e = {.checksum = b->checksum, .bytes = bytes, .offset = offset};
      if (first_bytes == bytes) {
        e.memory = std::move(b);
        count(e);
        return true;
      }
    }
    auto first = std::make_shared<block>();
    const auto all = std::span(b->bytes);
    const auto edge = static_cast<std::size_t>(first_bytes);
    first->bytes.assign(b->bytes.begin(), b->bytes.begin() + first_bytes);
    try {
      file_->write(all.subspan(edge), offset);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      entries_.erase(key);
      throw;
    }
    const std::lock_guard lock(mutex_);
    auto& e = entries_.at(key);
    e.memory = std::move(first);
    count(e);
    return true;
  }

  void forget(const block_key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(key);
    if (found == entries_.end() || !found->second.memory) return;
    auto& e = found->second;
    e.first_bytes = static_cast<std::int64_t>(e.memory->bytes.size());
    --held_.blocks;
    held_.bytes -= e.bytes;
    held_.disk_bytes -= e.bytes - e.first_bytes;
    e.memory.reset();
    e.forgotten = true;
  }

  [[nodiscard]] bool holds(const block_key& key) const { return find(key).memory != nullptr; }

  /// Null: not here (yet). `from_disk`: whether any of it was read from there.
  [[nodiscard]] std::shared_ptr<const block> load(const block_key& key, bool& from_disk) const {
    auto e = find(key);
    if (!e.memory) return nullptr;
    const auto first_bytes = e.memory->bytes.size();
    from_disk = static_cast<std::int64_t>(first_bytes) < e.bytes;
    if (!from_disk) return std::move(e.memory);
    auto whole = std::make_shared<block>();
    whole->checksum = e.checksum;
    whole->bytes.resize(static_cast<std::size_t>(e.bytes));
    std::copy(e.memory->bytes.begin(), e.memory->bytes.end(), whole->bytes.begin());
    file_->read(std::span(whole->bytes).subspan(first_bytes), e.offset);
    return whole;
  }

  [[nodiscard]] std::vector<block_key> keys() const {
    const std::lock_guard lock(mutex_);
    std::vector<block_key> keys;
    for (const auto& [key, e] : entries_) {
      if (e.memory) keys.push_back(key);
    }
    return keys;
  }

  [[nodiscard]] contents held() const {
    const std::lock_guard lock(mutex_);
    return held_;
  }

 private:
  struct entry {
    std::shared_ptr<const block>
        memory{};                ///< the first bytes, mostly all of them; null while the rest is being written
    std::uint64_t checksum = 0;  ///< of all
    std::int64_t bytes = 0;
    std::int64_t offset = 0;       ///< in the file, of what is not in memory
    bool forgotten = false;        ///< it was damaged: its room waits for it to be put again
    std::int64_t first_bytes = 0;  ///< of a forgotten one, in memory
  };

  [[nodiscard]] entry find(const block_key& key) const {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(key);
    return found == entries_.end() ? entry{} : found->second;
  }

  void count(const entry& e) {
    ++held_.blocks;
    held_.bytes += e.bytes;
    held_.disk_bytes += e.bytes - static_cast<std::int64_t>(e.memory->bytes.size());
  }

  const std::int64_t memory_bytes_;
  const std::int64_t disk_bytes_;
  std::optional<unlinked_file> file_;
  mutable std::mutex mutex_;
  std::map<block_key, entry> entries_;
  std::int64_t memory_used_ = 0;
  std::int64_t disk_used_ = 0;
  contents held_;
};

relay_log::relay_log(relay_log_options options) : options_(std::move(options)) {
  if (options_.disk_bytes_max == 0) return;
  try {
    const unlinked_file trial(options_.disk_directory, 0);
  } catch (const fault& why) {
    throw fault(fault_code::bad_input, "the relay's log cannot be kept there: " + why.reason(), why.where());
  }
}

relay_log::~relay_log() = default;

bool relay_log::reserve(job_id job, std::int64_t bytes) {
  std::int64_t memory = 0;
  std::int64_t disk = 0;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = rooms_.find(job); found != rooms_.end())
      return found->second->memory_bytes() + found->second->disk_bytes() >= bytes;
    memory = std::min(bytes, options_.memory_bytes_max - memory_reserved_);
    disk = bytes - memory;
    if (disk > options_.disk_bytes_max - disk_reserved_) return false;
    memory_reserved_ += memory;
    disk_reserved_ += disk;
  }
  // Taking room on a disk may take long, so nobody else waits for it.
  std::shared_ptr<job_room> made;
  try {
    made = std::make_shared<job_room>(memory, disk, options_.disk_directory);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    memory_reserved_ -= memory;
    disk_reserved_ -= disk;
    throw;
  }
  const std::lock_guard lock(mutex_);
  rooms_[job] = std::move(made);
  return true;
}

bool relay_log::put(const block_key& key, std::shared_ptr<const block> b) {
  const auto room = room_of(key.job);
  if (!room) throw fault(fault_code::internal, "a block of a job without a reservation", describe(key));
  return room->put(key, std::move(b));
}

bool relay_log::holds(const block_key& key) const {
  const auto room = room_of(key.job);
  return room && room->holds(key);
}

bool relay_log::read(const block_key& key, std::span<const std::span<std::byte>> parts) const {
  const auto room = room_of(key.job);
  bool from_disk = false;
  const auto found = room ? room->load(key, from_disk) : nullptr;
  if (!found) return false;
  copy_block(key, *found, parts);
  return true;
}

std::shared_ptr<const block> relay_log::get(const block_key& key) const {
  const auto room = room_of(key.job);
  bool from_disk = false;
  auto found = room ? room->load(key, from_disk) : nullptr;
  if (from_disk && checksum_of(found->bytes) != found->checksum) {
    throw fault(fault_code::corruption,
                fmt::format("what {} gave back does not match its checksum", options_.disk_directory.string()),
                describe(key));
  }
  return found;
}

void relay_log::forget(const block_key& key) {
  if (const auto room = room_of(key.job)) room->forget(key);
}

std::vector<block_key> relay_log::keys(job_id job) const {
  const auto room = room_of(job);
  return room ? room->keys() : std::vector<block_key>{};
}

void relay_log::release(job_id job) {
  std::shared_ptr<job_room> dropped;  // goes, with its memory and file, when the lock is gone
  const std::lock_guard lock(mutex_);
  const auto found = rooms_.find(job);
  if (found == rooms_.end()) return;
  dropped = std::move(found->second);
  rooms_.erase(found);
  memory_reserved_ -= dropped->memory_bytes();
  disk_reserved_ -= dropped->disk_bytes();
}

relay_log::contents relay_log::held() const {
  contents all;
  const std::lock_guard lock(mutex_);
  for (const auto& [job, room] : rooms_) {
    const auto one = room->held();
    all.blocks += one.blocks;
    all.bytes += one.bytes;
    all.disk_bytes += one.disk_bytes;
  }
  return all;
}

std::int64_t relay_log::bytes_reserved() const {
  const std::lock_guard lock(mutex_);
  return memory_reserved_ + disk_reserved_;
}

std::shared_ptr<relay_log::job_room> relay_log::room_of(job_id job) const {
  const std::lock_guard lock(mutex_);
  const auto found = rooms_.find(job);
  return found == rooms_.end() ? nullptr : found->second;
}

}  // namespace baton
