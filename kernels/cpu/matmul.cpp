#include "kernels/cpu/matmul.hpp"

#include <string>

#include <omp.h>

#include "kernels/fault.hpp"

namespace baton::cpu {
namespace {

using data_type = dnnl::memory::data_type;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& this_threads_stream() {
  thread_local dnnl::stream stream(cpu_engine());
  return stream;
}

data_type type_of(element_type type) { return type == element_type::bf16 ? data_type::bf16 : data_type::f32; }

template <class Body>
auto checked(const char* where, Body&& body) {
  try {
    // oneDNN plans for the number of OpenMP threads that the calling thread may start.
    omp_set_num_threads(1);
    return body();
  } catch (const dnnl::error& error) {
    throw fault(fault_code::device, std::string("oneDNN: ") + error.what(), where);
  }
}

dnnl::matmul::primitive_desc describe(const matmul_shape& shape, const dnnl::memory::desc& weights) {
  const dnnl::memory::desc x({shape.rows, shape.inputs}, type_of(shape.type), dnnl::memory::format_tag::ab);
  const dnnl::memory::desc out({shape.rows, shape.columns}, type_of(shape.out_type), dnnl::memory::format_tag::ab);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (shape.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  const dnnl::memory::desc bias({1, shape.columns}, data_type::f32, dnnl::memory::format_tag::ab);
  const auto product = shape.bias ? dnnl::matmul::desc(x, weights, bias, out) : dnnl::matmul::desc(x, weights, out);
  return {product, attributes, cpu_engine()};
}

dnnl::memory::desc best_layout(std::int64_t inputs, std::int64_t columns, element_type type) {
  // The layout that oneDNN chooses depends on the weights' own shape only; many rows stand for all numbers of rows.
  const matmul_shape shape{256, inputs, columns, columns, type, element_type::f32, false};
  const dnnl::memory::desc any({inputs, columns}, type_of(type), dnnl::memory::format_tag::any);
  return describe(shape, any).weights_desc();
}

}  // namespace

weight_format::weight_format(std::int64_t inputs, std::int64_t columns, element_type type)
    : layout_(checked("weight_format", [&] { return best_layout(inputs, columns, type); })) {}

dnnl::memory::desc weight_format::leading_columns(std::int64_t columns) const {
  const auto& dims = layout_.data.dims;
  if (columns == dims[1]) return layout_;
  return checked("weight_format", [&] { return layout_.submemory_desc({dims[0], columns}, {0, 0}); });
}

weight_packer::weight_packer(const weight_format& to, bool transposed) : to_(to.layout()) {
  const auto inputs = to_.data.dims[0];
  const auto columns = to_.data.dims[1];
  const auto strides = transposed ? dnnl::memory::dims{1, inputs} : dnnl::memory::dims{columns, 1};
  from_ = dnnl::memory::desc({inputs, columns}, static_cast<data_type>(to_.data.data_type), strides);
  reorder_ = checked("weight_packer", [&] {
    return dnnl::reorder(dnnl::reorder::primitive_desc(cpu_engine(), from_, cpu_engine(), to_));
  });
}

void weight_packer::operator()(const void* from, void* to) const {
  checked("weight_packer", [&] {
    dnnl::memory source(from_, cpu_engine(), const_cast<void*>(from));
    dnnl::memory target(to_, cpu_engine(), to);
    dnnl::reorder(reorder_).execute(this_threads_stream(), source, target);
  });
}

matmul::matmul(const matmul_shape& shape, int threads) {
  checked("matmul", [&] {
    const weight_format format(shape.inputs, shape.packed_columns, shape.type);
    const auto description = describe(shape, format.leading_columns(shape.columns));
    primitive_ = dnnl::matmul(description);
    implementation_ = description.impl_info_str();
    for (int thread = 0; thread < threads; ++thread) {
      const auto without_memory = [](const dnnl::memory::desc& d) { return dnnl::memory(d, cpu_engine(), nullptr); };
      arguments_.push_back({without_memory(description.src_desc()), without_memory(description.weights_desc()),
                            shape.bias ? without_memory(description.bias_desc()) : dnnl::memory(),
                            without_memory(description.dst_desc()),
                            dnnl::memory(description.scratchpad_desc(), cpu_engine())});
    }
  });
}

void matmul::run(int thread, const void* x, const void* weights, void* out, const float* bias) const {
  // The C functions: those of C++ build a hash map for each call.
  const arguments& own = arguments_[static_cast<std::size_t>(thread)];
  dnnl_memory_set_data_handle(own.x.get(), const_cast<void*>(x));
  dnnl_memory_set_data_handle(own.weights.get(), const_cast<void*>(weights));
  dnnl_memory_set_data_handle(own.out.get(), out);
  const bool has_bias = static_cast<bool>(own.bias);
  if (has_bias) dnnl_memory_set_data_handle(own.bias.get(), const_cast<float*>(bias));
  const dnnl_exec_arg_t list[] = {{DNNL_ARG_SRC, own.x.get()},
                                  {DNNL_ARG_WEIGHTS, own.weights.get()},
                                  {DNNL_ARG_DST, own.out.get()},
                                  {DNNL_ARG_SCRATCHPAD, own.scratch.get()},
                                  {DNNL_ARG_BIAS, has_bias ? own.bias.get() : nullptr}};
  const dnnl_status_t status =
      dnnl_primitive_execute(primitive_.get(), this_threads_stream().get(), has_bias ? 5 : 4, list);
  if (status != dnnl_success) {
    throw fault(fault_code::device, "oneDNN: matmul failed with status " + std::to_string(status), "matmul");
  }
}

const matmul& matmul_cache::get(const matmul_shape& shape) {
  auto& place = made_[shape];
  if (!place) place = std::make_unique<matmul>(shape, threads_);
  return *place;
}

}  // namespace baton::cpu
