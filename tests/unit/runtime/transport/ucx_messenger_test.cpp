#include "runtime/transport/ucx_messenger.hpp"

#include <gtest/gtest.h>

#include "kernels/fault.hpp"
#include "runtime/transport/message_header.hpp"
#include "runtime/transport/ucx_worker.hpp"
#include "tests/support/message_inbox.hpp"

/// What only UCX has; messenger_test.cpp has the rest.
namespace baton {
namespace {

using namespace std::chrono_literals;

TEST(ucx_messenger, a_network_device_that_is_not_there_is_bad_input) {
  try {
    static_cast<void>(make_ucx_messenger({.net_devices = "nosuch0"}));
    FAIL();
  } catch (const fault& why) {
    EXPECT_EQ(why.code(), fault_code::bad_input);
    EXPECT_NE(std::string(why.what()).find("nosuch0"), std::string::npos);
  }
}

TEST(ucx_messenger, what_is_no_message_is_dropped_and_the_next_one_arrives) {
  const auto a = make_ucx_messenger({});
  const auto b = make_ucx_messenger({});
  message_inbox in;
  b->listen(&in);
  ucx_worker stranger("lo");
  ucp_ep_params_t where{};
  where.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  where.address =
      reinterpret_cast<const ucp_address_t*>(read_address(std::as_bytes(std::span(b->address())))->place.data());
  where.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  ucp_ep_h endpoint = nullptr;
  check_ucx(ucx().ucp_ep_create(stranger.get(), &where, &endpoint), "making an endpoint");
  const auto finish = [&](ucs_status_ptr_t request) {
    if (!UCS_PTR_IS_PTR(request)) return;
    while (ucx().ucp_request_check_status(request) == UCS_INPROGRESS)
      stranger.wait(-1, stranger.progress() ? 0ms : 1ms);
    ucx().ucp_request_free(request);
  };
  const auto send_raw = [&](std::span<const std::byte> header, std::span<const std::byte> payload, unsigned how) {
    ucp_request_param_t options{};
    options.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    options.flags = how;
    finish(ucx().ucp_am_send_nbx(endpoint, 0, header.data(), header.size(), payload.data(), payload.size(), &options));
  };
  message_header right;
  right.sender = 12345;  // who has never given an address
  right.what = direct(1, nullptr);
  right.has_payload = true;
  right.payload_bytes = 100'000;
  const auto payload = payload_of(100'000, 1);
  for (const unsigned how : {UCP_AM_SEND_FLAG_EAGER, UCP_AM_SEND_FLAG_RNDV}) {
    const auto header = write_header(right);
    for (std::size_t length = 0; length <= header.size(); length += 7) {
      send_raw(std::span(header).first(length), payload->bytes, how);
    }
    send_raw(header, payload->bytes, how);
    send_raw(header, std::span(payload->bytes).first(99'999), how);
    auto with_nonsense = right;
    with_nonsense.sender_address = std::span(payload->bytes).first(99);
    send_raw(write_header(with_nonsense), payload->bytes, how);
    auto huge = header;
    std::fill(huge.end() - 16, huge.end(), std::byte{0xff});
    send_raw(huge, payload->bytes, how);
  }
  ucp_request_param_t closing{};
  closing.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  closing.flags = UCP_EP_CLOSE_FLAG_FORCE;
  finish(ucx().ucp_ep_close_nbx(endpoint, &closing));
  a->send(b->address(), direct(2, payload_of(100'000, 2)));
  ASSERT_TRUE(in.has_step(2));
  EXPECT_EQ(in.arrivals().size(), 1U);
  b->listen(nullptr);
}

}  // namespace
}  // namespace baton
