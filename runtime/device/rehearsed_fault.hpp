#pragma once

#include <cstdint>

#include "runtime/transport/block.hpp"

namespace baton {

/// What a pass is about to do.
struct pass_place {
  block_phase stage = block_phase::prefill;
  std::uint32_t step = 0;  ///< the query's piece, the answer's token
  int layer = 0;
  int chunk = 0;  ///< steps since the pass came to this layer
};

/// Lets tests harm a process at an exact place of a rank's work. Where the environment's BATON_FAULT names a folder in which a file is
/// called for this place, the file is removed, and what its name begins with happens once:
///
///     stop.rank4.prefill0.layer1.chunk2     this process stops itself (SIGSTOP); what becomes of it then is up to others
///     fail.rank2.decode5.layer0.chunk0      the pass throws fault(device)
///
/// Without BATON_FAULT it does nothing. Any thread.
void rehearse_fault(int rank, const pass_place& here);

}  // namespace baton
