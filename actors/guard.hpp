#pragma once

#include <exception>

#include <caf/all.hpp>

namespace baton::actors {

/// Every handler passes its work through here: an exception that escaped a handler would end the actor and lose its text.
/// What the work throws ends the actor with an error that carries the text to whoever monitors it.
template <class Self, class Work>
void guard(Self* self, Work&& work) {
  try {
    work();
  } catch (const std::exception& why) {
    self->quit(caf::make_error(caf::sec::runtime_error, std::string(why.what())));
  }
}

}  // namespace baton::actors
