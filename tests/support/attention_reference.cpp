#include "tests/support/attention_reference.hpp"

namespace baton::reference {

attention_result_of_one attention_over(const row& query, const kernel_buffer& keys, const kernel_buffer& values,
                                       int kv_head, int dim, std::int64_t seen, double scale) {
  std::vector<row> seen_keys;
  std::vector<row> seen_values;
  for (std::int64_t key = 0; key < seen; ++key) {
    seen_keys.push_back(keys.part(key, std::int64_t{kv_head} * dim, dim));
    seen_values.push_back(values.part(key, std::int64_t{kv_head} * dim, dim));
  }
  return attention_of(query, seen_keys, seen_values, scale);
}

}  // namespace baton::reference
