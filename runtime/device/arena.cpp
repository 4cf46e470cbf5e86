#include "runtime/device/arena.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "kernels/fault.hpp"

namespace baton {

extent::extent(extent&& other) noexcept
    : owner_(std::exchange(other.owner_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

extent& extent::operator=(extent&& other) noexcept {
  std::swap(owner_, other.owner_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

extent::~extent() {
  if (owner_) owner_->give_back(data_, bytes_);
}

arena::arena(backend& kernels, std::size_t bytes) : memory_(kernels.allocate(aligned(bytes))) {
  free_.emplace(memory_->data(), memory_->bytes());
}

extent arena::take(std::size_t bytes, const std::string& purpose) {
  const std::size_t wanted = aligned(std::max<std::size_t>(bytes, 1));
  const auto room = std::ranges::find_if(free_, [&](const auto& piece) { return piece.second >= wanted; });
  if (room == free_.end()) {
    throw fault(fault_code::out_of_memory,
                fmt::format("{} needs {} bytes; {} of {} are free, the largest piece has {}", purpose, wanted,
                            bytes_free(), this->bytes(), largest_free_bytes()));
  }
  std::byte* const at = room->first;
  const std::size_t rest = room->second - wanted;
  free_.erase(room);
  if (rest > 0) free_.emplace(at + wanted, rest);
  lent_ += wanted;
  peak_ = std::max(peak_, lent_);
  return {*this, at, wanted};
}

std::size_t arena::bytes_free() const { return memory_->bytes() - lent_; }

std::size_t arena::largest_free_bytes() const {
  std::size_t largest = 0;
  for (const auto& [at, bytes] : free_) largest = std::max(largest, bytes);
  return largest;
}

void arena::give_back(std::byte* data, std::size_t bytes) noexcept {
  lent_ -= bytes;
  auto piece = free_.emplace(data, bytes).first;
  if (const auto next = std::next(piece); next != free_.end() && data + bytes == next->first) {
    piece->second += next->second;
    free_.erase(next);
  }
  if (piece != free_.begin()) {
    const auto before = std::prev(piece);
    if (before->first + before->second == piece->first) {
      before->second += piece->second;
      free_.erase(piece);
    }
  }
}

}  // namespace baton
