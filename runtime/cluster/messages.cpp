#include "runtime/cluster/messages.hpp"

namespace baton {

failure failure_of(const fault& f) { return {f.code(), f.reason(), f.where()}; }

}  // namespace baton
