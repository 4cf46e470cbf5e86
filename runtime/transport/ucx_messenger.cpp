#include "runtime/transport/ucx_messenger.hpp"

#include "runtime/transport/messenger_thread.hpp"
#include "runtime/transport/ucx_connections.hpp"
#include "runtime/transport/ucx_worker.hpp"

namespace baton {
namespace {

class ucx_network final : public message_network {
 public:
  ucx_network(const std::string& net_devices, traffic_counters& counters)
      : worker_(net_devices), connections_(worker_, counters) {}

  [[nodiscard]] const std::string& address() const override { return connections_.address(); }
  void send(const std::string& to, message&& m) override { connections_.send(to, std::move(m)); }
  void forget(const std::string& to) override { connections_.forget(to); }
  void advance(time_point now) override { connections_.advance(now); }
  [[nodiscard]] std::optional<time_point> next_due(time_point now) const override { return connections_.next_due(now); }
  bool progress() override { return worker_.progress(); }
  void wait(int other_fd, std::optional<std::chrono::nanoseconds> time_max) override {
    worker_.wait(other_fd, time_max);
  }
  [[nodiscard]] std::vector<arrival> take_arrived() override { return connections_.take_arrived(); }

 private:
  ucx_worker worker_;
  ucx_connections connections_;
};

}  // namespace

std::unique_ptr<messenger> make_ucx_messenger(const ucx_options& options) {
  return std::make_unique<messenger_thread>(
      [devices = options.net_devices](traffic_counters& counters) {
        return std::make_unique<ucx_network>(devices, counters);
      },
      options.delay);
}

}  // namespace baton
