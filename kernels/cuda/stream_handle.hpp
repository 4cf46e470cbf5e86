#pragma once

// As CUDA's own headers declare it, so that launchers can be declared without them.
struct CUstream_st;

namespace baton::cuda {

/// A cudaStream_t.
using stream_handle = CUstream_st*;

}  // namespace baton::cuda
