#include "runtime/transport/transport.hpp"

#include <utility>

namespace baton {

transfer::transfer(transfer&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), id_(other.id_) {}

transfer& transfer::operator=(transfer&& other) noexcept {
  std::swap(owner_, other.owner_);
  std::swap(id_, other.id_);
  return *this;
}

transfer::~transfer() {
  if (owner_) owner_->cancel(id_);
}

bool transfer::done() {
  if (owner_ && owner_->poll(id_)) owner_ = nullptr;
  return owner_ == nullptr;
}

int transfer::missing_rank() const { return owner_ ? owner_->missing_rank(id_) : -1; }

}  // namespace baton
