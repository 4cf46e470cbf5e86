#include "runtime/relay/relay_log.hpp"

#include <utility>

#include <fmt/format.h>

#include "kernels/fault.hpp"

namespace baton {

bool relay_log::reserve(job_id job, std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto found = jobs_.find(job);
  const std::int64_t before = found == jobs_.end() ? 0 : found->second.reserved;
  if (reserved_ - before + bytes > bytes_max_) return false;
  reserved_ += bytes - before;
  jobs_[job].reserved = bytes;
  return true;
}

bool relay_log::put(const block_key& key, block&& b) {
  const auto bytes = static_cast<std::int64_t>(b.bytes.size());
  const std::lock_guard lock(mutex_);
  const auto room = jobs_.find(key.job);
  if (room == jobs_.end()) throw fault(fault_code::internal, "a block of a job without a reservation", describe(key));
  auto& job = room->second;
  if (job.blocks.contains(key)) return false;
  if (job.used + bytes > job.reserved) {
    throw fault(fault_code::internal,
                fmt::format("a block of {} bytes exceeds the job's log of {}, {} used", bytes, job.reserved, job.used),
                describe(key));
  }
  job.used += bytes;
  used_ += bytes;
  job.blocks.emplace(key, std::move(b));
  return true;
}

bool relay_log::holds(const block_key& key) const {
  const std::lock_guard lock(mutex_);
  const auto job = jobs_.find(key.job);
  return job != jobs_.end() && job->second.blocks.contains(key);
}

bool relay_log::read(const block_key& key, std::span<const std::span<std::byte>> parts) const {
  const std::lock_guard lock(mutex_);
  const auto job = jobs_.find(key.job);
  if (job == jobs_.end()) return false;
  const auto found = job->second.blocks.find(key);
  if (found == job->second.blocks.end()) return false;
  copy_block(key, found->second, parts);
  return true;
}

std::vector<block_key> relay_log::keys(job_id job) const {
  const std::lock_guard lock(mutex_);
  std::vector<block_key> keys;
  if (const auto found = jobs_.find(job); found != jobs_.end()) {
    for (const auto& [key, held] : found->second.blocks) keys.push_back(key);
  }
  return keys;
}

void relay_log::release(job_id job) {
  const std::lock_guard lock(mutex_);
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;
  reserved_ -= found->second.reserved;
  used_ -= found->second.used;
  jobs_.erase(found);
}

std::int64_t relay_log::bytes() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

std::int64_t relay_log::bytes_reserved() const {
  const std::lock_guard lock(mutex_);
  return reserved_;
}

}  // namespace baton
