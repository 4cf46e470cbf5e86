#include "actors/local_cluster.hpp"

#include <fstream>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "actors/job_client.hpp"
#include "kernels/fault.hpp"
#include "runtime/wire/codec.hpp"
#include "tests/support/reference_weights.hpp"
#include "tests/support/temporary_directory.hpp"
#include "tests/support/test_engine.hpp"

namespace baton::actors {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

std::vector<std::int32_t> random_ids(std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (auto& id : ids) id = static_cast<std::int32_t>(random() % 131u);
  return ids;
}

/// A real cluster of two devices in this process, with a random model.
struct local_cluster_test : testing::Test {
  temporary_directory folder;
  cluster_config config;
  std::optional<checkpoint> model;
  std::optional<cluster_devices> devices;
  std::optional<local_cluster> cluster;
  std::vector<std::int32_t> document = random_ids(600, 1);
  std::vector<std::int32_t> query = random_ids(9, 2);

  void SetUp() override {
    reference::shape shape;
    shape.layers = 3;
    shape.head_dim = 32;
    shape.vocabulary = 131;
    reference::write_checkpoint(reference::random_weights(shape, 5, true), folder.path());
    auto description = nlohmann::json::parse(std::ifstream(folder.path() / "config.json"));
    description["max_position_embeddings"] = 200000;
    std::ofstream(folder.path() / "config.json") << description;
    config.model.directory = folder.path();
    config.model.precision = element_type::f32;
    config.nodes = {{.name = "here",
                     .relay = {.log_memory_bytes = 1 << 24},
                     .devices = {{.name = "a", .threads = 1}, {.name = "b", .threads = 1}}}};
    config.job.strategy = "apb";
    config.job.ranks = 4;
    config.job.anchor_tokens = 40;
    config.job.passing_tokens = 16;
    config.job.max_new_tokens = 6;
    config.timeouts.progress_ms = 10;
    config.recovery.replays = 0;
    model.emplace(checkpoint::open(folder.path()));
    devices.emplace(config);
    const std::vector<std::int64_t> arenas{std::int64_t{400} << 20, std::int64_t{400} << 20};
    cluster.emplace(config, *model, *devices, arenas, 200000);
  }

  submit_job request(const std::string& id) const {
    submit_job r;
    r.request_id = id;
    r.options = config.job;
    r.document_tokens = static_cast<std::int64_t>(document.size());
    r.query_tokens = static_cast<std::int64_t>(query.size());
    r.system_tokens = 2;
    r.report_dump = true;
    return r;
  }

  /// What the coordinator says until the job has ended; a minute is for ever here.
  static std::vector<client_update> until_the_end(job_client& client) {
    std::vector<client_update> all;
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    while (std::chrono::steady_clock::now() < deadline) {
      auto update = client.next(100ms);
      if (!update) continue;
      all.push_back(*update);
      if (std::holds_alternative<job_finished>(*update) || std::holds_alternative<job_failed>(*update) ||
          std::holds_alternative<job_refused>(*update)) {
        return all;
      }
    }
    ADD_FAILURE() << "the job did not end";
    return all;
  }

  /// A job that takes long enough to be interrupted, once it computes.
  job_id start_long_job(job_client& client) {
    document = random_ids(60000, 3);
    auto long_request = request("long");
    long_request.options.strategy = "full";
    long_request.options.ranks = 1;
    client.submit(long_request, document, query);
    for (;;) {
      const auto update = client.next(60s);
      if (!update) throw std::runtime_error("no progress");
      if (const auto* progress = std::get_if<job_progress>(&*update); progress && progress->ranks.at(0).chunks > 2)
        return progress->job;
      if (std::holds_alternative<job_failed>(*update) || std::holds_alternative<job_refused>(*update))
        throw std::runtime_error("it ended");
    }
  }

  void expect_log_released() const {
    for (int i = 0; i < 500 && cluster->log().bytes_reserved() > 0; ++i) std::this_thread::sleep_for(10ms);
    EXPECT_EQ(cluster->log().bytes_reserved(), 0);
  }
};

TEST_F(local_cluster_test, a_job_over_actors_and_devices_gives_the_engines_bits) {
  test_engine engine(folder.path(), {element_type::f32, 1});
  const auto expected = engine.run(config.job, document, query, 2);
  job_client client(cluster->system(), cluster->coordinator());
  client.submit(request("one"), document, query);
  const auto updates = until_the_end(client);
  std::vector<float> logits;
  std::vector<std::int32_t> streamed;
  std::size_t layers_of_units = 0;
  for (const auto& update : updates) {
    if (const auto* l = std::get_if<first_logits>(&update))
      logits.insert(logits.end(), l->values.begin(), l->values.end());
    if (const auto* t = std::get_if<answer_token>(&update)) streamed.push_back(t->token);
    if (const auto* units = std::get_if<chosen_units>(&update)) {
      ++layers_of_units;
      EXPECT_EQ(units->indices,
                expected.chosen.at(static_cast<std::size_t>(units->layer)).at(static_cast<std::size_t>(units->rank)));
    }
  }
  EXPECT_EQ(logits, expected.first_logits);
  EXPECT_EQ(streamed, expected.ids);
  EXPECT_EQ(layers_of_units, 3u * 4u) << "the last rank passes nothing on, and tells the checksums of its KV";
  ASSERT_TRUE(std::holds_alternative<job_finished>(updates.back()));
  const auto& done = std::get<job_finished>(updates.back());
  EXPECT_EQ(done.answer_ids, expected.ids);
  ASSERT_EQ(done.ranks.size(), 4u);
  const std::int64_t unit_bytes = 2 * 4 * 2 * 32;
  EXPECT_EQ(done.ranks[0].prefill.bytes_sent, 3 * 16 * unit_bytes);
  EXPECT_EQ(done.ranks[3].prefill.bytes_sent, 0);
  EXPECT_EQ(done.ranks[3].prefill.bytes_received, 3 * 48 * unit_bytes);
  EXPECT_GT(done.ranks[2].prefill.compute_s, 0);
  expect_log_released();
}

TEST_F(local_cluster_test, two_clients_at_once_get_each_its_own_answer) {
  test_engine engine(folder.path(), {element_type::f32, 1});
  const auto expected = engine.run(config.job, document, query, 2);
  auto other_options = config.job;
  other_options.strategy = "star";
  const auto expected_other = engine.run(other_options, document, query, 2);
  job_client first(cluster->system(), cluster->coordinator());
  job_client second(cluster->system(), cluster->coordinator());
  auto other = request("two");
  other.options = other_options;
  first.submit(request("one"), document, query);
  second.submit(other, document, query);
  const auto got = until_the_end(first);
  const auto got_other = until_the_end(second);
  EXPECT_EQ(std::get<job_finished>(got.back()).answer_ids, expected.ids);
  EXPECT_EQ(std::get<job_finished>(got_other.back()).answer_ids, expected_other.ids);
}

TEST_F(local_cluster_test, cancelling_stops_a_job_within_a_chunk_and_the_next_one_runs) {
  job_client client(cluster->system(), cluster->coordinator());
  const auto job = start_long_job(client);
  client.cancel(job);
  const auto updates = until_the_end(client);
  ASSERT_TRUE(std::holds_alternative<job_failed>(updates.back()));
  EXPECT_EQ(std::get<job_failed>(updates.back()).why.code, fault_code::cancelled);
  expect_log_released();
  document = random_ids(600, 1);
  client.submit(request("next"), document, query);
  EXPECT_TRUE(std::holds_alternative<job_finished>(until_the_end(client).back()));
}

TEST_F(local_cluster_test, a_worker_that_ends_fails_its_job_with_rank_and_device) {
  job_client client(cluster->system(), cluster->coordinator());
  start_long_job(client);
  caf::anon_send_exit(cluster->workers().at(0), caf::exit_reason::kill);
  const auto updates = until_the_end(client);
  ASSERT_TRUE(std::holds_alternative<job_failed>(updates.back()));
  const auto& why = std::get<job_failed>(updates.back()).why;
  EXPECT_EQ(why.code, fault_code::lost_peer);
  EXPECT_THAT(why.where, HasSubstr("rank 0, device here/a, layer 0"));
}

TEST_F(local_cluster_test, an_exception_in_a_workers_handler_is_told_with_its_text) {
  job_client client(cluster->system(), cluster->coordinator());
  start_long_job(client);
  caf::anon_send(cluster->workers().at(0), worker_command_bytes{"no protobuf at all"});
  const auto updates = until_the_end(client);
  ASSERT_TRUE(std::holds_alternative<job_failed>(updates.back()));
  EXPECT_THAT(std::get<job_failed>(updates.back()).why.what, HasSubstr("worker_command"));
}

TEST_F(local_cluster_test, a_coordinator_that_ends_is_told_to_the_client) {
  job_client client(cluster->system(), cluster->coordinator());
  start_long_job(client);
  caf::anon_send_exit(cluster->coordinator(), caf::exit_reason::kill);
  try {
    until_the_end(client);
    FAIL();
  } catch (const fault& why) {
    EXPECT_EQ(why.code(), fault_code::lost_peer);
    EXPECT_EQ(why.where(), "coordinator");
  }
}

TEST_F(local_cluster_test, a_client_that_goes_takes_its_job_with_it) {
  {
    job_client client(cluster->system(), cluster->coordinator());
    start_long_job(client);
    EXPECT_GT(cluster->log().bytes_max(), 0);
  }
  document = random_ids(600, 1);
  job_client next(cluster->system(), cluster->coordinator());
  next.submit(request("next"), document, query);
  EXPECT_TRUE(std::holds_alternative<job_finished>(until_the_end(next).back()));
}

TEST_F(local_cluster_test, bytes_that_make_no_sense_lose_the_peer_that_sent_them_and_nobody_else) {
  job_client client(cluster->system(), cluster->coordinator());
  {
    const caf::scoped_actor stranger(cluster->system());
    stranger->send(cluster->coordinator(), client_request_bytes{"\xff\xff\xff"});
    stranger->send(cluster->coordinator(), worker_report_bytes{"nonsense"});
    stranger->send(cluster->coordinator(), relay_report_bytes{""});
  }
  client.submit(request("one"), document, query);
  EXPECT_TRUE(std::holds_alternative<job_finished>(until_the_end(client).back()));
}

TEST_F(local_cluster_test, a_request_that_makes_no_sense_is_refused_to_whoever_made_it) {
  job_client client(cluster->system(), cluster->coordinator());
  auto odd = request("odd");
  odd.options.sampling.temperature = std::numeric_limits<float>::quiet_NaN();
  client.submit(odd, document, query);
  const auto updates = until_the_end(client);
  ASSERT_TRUE(std::holds_alternative<job_refused>(updates.back()));
  EXPECT_EQ(std::get<job_refused>(updates.back()).why.code, fault_code::bad_input);
  EXPECT_THAT(std::get<job_refused>(updates.back()).why.where, HasSubstr("temperature"));
}

TEST_F(local_cluster_test, a_job_larger_than_the_memory_fails_with_sizes_and_leaves_room_for_the_next) {
  job_client client(cluster->system(), cluster->coordinator());
  document = random_ids(150000, 4);
  auto huge = request("huge");
  huge.options.ranks = 1;
  huge.options.strategy = "full";
  client.submit(huge, document, query);
  const auto updates = until_the_end(client);
  ASSERT_TRUE(std::holds_alternative<job_failed>(updates.back()));
  EXPECT_EQ(std::get<job_failed>(updates.back()).why.code, fault_code::out_of_memory);
  EXPECT_THAT(std::get<job_failed>(updates.back()).why.what, HasSubstr("bytes"));
  document = random_ids(600, 1);
  client.submit(request("next"), document, query);
  EXPECT_TRUE(std::holds_alternative<job_finished>(until_the_end(client).back()));
}

}  // namespace
}  // namespace baton::actors
