#pragma once

#include <exception>

#include <caf/all.hpp>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace baton::actors {

/// While one of these lives, `actor` handles a message. CAF runs the handlers of an actor one after the other, on any of its
/// threads, and hands the actor over through atomics inside Debian's uninstrumented library: ThreadSanitizer learns of that
/// order here. Two handlers at once, which CAF never runs, would go unreported; whatever else shares their memory would not.
class [[maybe_unused]] turn {
 public:
#if defined(__SANITIZE_THREAD__)
  explicit turn(void* actor) : actor_(actor) { __tsan_acquire(actor_); }
  ~turn() { __tsan_release(actor_); }
#else
  explicit turn(void*) {}
  ~turn() {}
#endif
  turn(const turn&) = delete;
  turn& operator=(const turn&) = delete;

#if defined(__SANITIZE_THREAD__)
 private:
  void* actor_;
#endif
};

/// Every handler passes its work through here: an exception that escaped a handler would end the actor and lose its text.
/// What the work throws ends the actor with an error that carries the text to whoever monitors it.
template <class Self, class Work>
void guard(Self* self, Work&& work) {
  const turn now(self);
  try {
    work();
  } catch (const std::exception& why) {
    self->quit(caf::make_error(caf::sec::runtime_error, std::string(why.what())));
  }
}

}  // namespace baton::actors
