#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace baton {

/// As even as can be: the first ones have one token more where they must.
std::vector<std::int64_t> even_lengths(std::int64_t sum, int count);

/// Multiples of `multiple` as near to the lengths as can be, at least one of them each; the last takes the rest of `sum`. Empty where
/// that leaves it nothing.
std::vector<std::int64_t> rounded_lengths(std::span<const double> lengths, std::int64_t multiple, std::int64_t sum);

/// The nearest multiple, where that is nearer than an eighth of it; `tokens` as they are where not.
std::int64_t rounded_tokens(std::int64_t tokens, std::int64_t multiple);

/// Even lengths, in multiples but for the last, where that changes each by at most an eighth.
std::vector<std::int64_t> even_lengths_in(std::int64_t multiple, std::int64_t sum, int count);

}  // namespace baton
