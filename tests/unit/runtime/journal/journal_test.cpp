#include "runtime/journal/journal.hpp"

#include <csignal>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/fault.hpp"
#include "tests/support/temporary_directory.hpp"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct journal_test : testing::Test {
  const temporary_directory temporary;
  const std::filesystem::path folder = temporary.path() / "journal";
  const std::vector<std::int32_t> ids{3, 1, 4, 1, 5, 9, 2, 6};

  static submit_job asked(const std::string& request_id) {
    submit_job request{.request_id = request_id, .options = {}, .document_tokens = 6, .query_tokens = 2};
    request.options.strategy = "star";
    request.options.ranks = 2;
    request.stop_tokens = {7};
    request.detached = true;
    return request;
  }
  static job_finished finished(job_id id) { return {.job = id, .prefill_s = 2, .answer_ids = {8, 9}, .ranks = {}}; }
  static job_started started(job_id id) {
    plan_request request{.document_tokens = 6, .query_tokens = 2, .positions_max = 100};
    request.options.strategy = "full";
    const std::vector<device_view> devices{{"n", "d", "cpu"}};
    return {id, make_job_plan(request, devices)};
  }

  /// What lies in the folder of documents.
  [[nodiscard]] std::vector<std::filesystem::path> documents() const {
    std::vector<std::filesystem::path> all;
    for (const auto& entry : std::filesystem::directory_iterator(folder / "documents")) all.push_back(entry.path());
    return all;
  }

  /// Another process opens the journal, does `work` and is killed right after the step of that name.
  void killed_after(std::string_view step, const std::function<void(journal&)>& work) const {
    const int child = fork();
    if (child == 0) {
      journal j(folder, {.after_step = [&](std::string_view done) {
                  if (done == step) kill(getpid(), SIGKILL);
                }});
      work(j);
      _exit(0);  // not reached where there is such a step
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "there is no step '" << step << "'";
  }
};

TEST_F(journal_test, gives_back_what_it_was_told_after_it_was_opened_again) {
  job_id id = 0;
  {
    journal j(folder);
    id = j.keep(asked("a"), ids);
    EXPECT_EQ(j.generation(), 1u);
  }
  journal j(folder);
  EXPECT_EQ(j.generation(), 2u);
  const auto jobs = j.unfinished();
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0].id, id);
  EXPECT_EQ(jobs[0].asked, asked("a"));
  EXPECT_EQ(j.ids_of(id), ids);
  EXPECT_EQ(j.find("a")->id, id);
  EXPECT_FALSE(j.find("b"));
  EXPECT_FALSE(j.find(id + 1));
}

TEST_F(journal_test, keeps_results_and_drops_documents_that_nobody_needs) {
  job_id first = 0;
  job_id second = 0;
  {
    journal j(folder);
    first = j.keep(asked("a"), ids);
    second = j.keep(asked("b"), ids);
    EXPECT_EQ(documents().size(), 1u) << "equal documents are one";
    j.ended(first, started(first), finished(first));
    EXPECT_EQ(documents().size(), 1u) << "the other job needs it";
    j.ended(second, {}, job_failed{second, {fault_code::cancelled, "cancelled", {}}});
    EXPECT_THAT(documents(), IsEmpty());
  }
  journal j(folder);
  EXPECT_THAT(j.unfinished(), IsEmpty());
  const auto done = j.find(first);
  EXPECT_EQ(done->state, job_state::finished);
  EXPECT_EQ(done->started, started(first));
  EXPECT_EQ(done->end, client_update(finished(first)));
  EXPECT_EQ(j.find("b")->state, job_state::cancelled);
  const auto all = j.newest(10);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].id, second);
  EXPECT_EQ(all[0].why, "cancelled");
  EXPECT_EQ(all[1].strategy, "star");
  EXPECT_EQ(j.newest(1).size(), 1u);
}

TEST_F(journal_test, a_submission_is_there_whole_or_not_at_all_wherever_it_is_killed) {
  for (const char* step : {"document written", "document named"}) {
    killed_after(step, [&](journal& j) { j.keep(asked(step), ids); });
    EXPECT_EQ(documents().size(), 1u);
    const journal j(folder);
    EXPECT_THAT(const_cast<journal&>(j).unfinished(), IsEmpty()) << step;
    EXPECT_THAT(documents(), IsEmpty()) << "what nobody needs is removed";
  }
  killed_after("submission kept", [&](journal& j) { j.keep(asked("kept"), ids); });
  journal j(folder);
  ASSERT_EQ(j.unfinished().size(), 1u);
  EXPECT_EQ(j.ids_of(j.find("kept")->id), ids);
}

TEST_F(journal_test, an_end_is_there_once_it_was_told_wherever_it_is_killed) {
  for (const std::string step : {"end kept", "document removed"}) {
    killed_after(step, [&](journal& j) {
      const auto id = j.keep(asked(step), ids);
      j.ended(id, started(id), finished(id));
    });
    journal j(folder);
    EXPECT_THAT(j.unfinished(), IsEmpty());
    EXPECT_EQ(j.find(step)->state, job_state::finished);
    EXPECT_THAT(documents(), IsEmpty());
  }
}

TEST_F(journal_test, the_generation_rises_with_every_start_even_one_that_is_killed_at_once) {
  killed_after("opened", [](journal&) {});
  killed_after("generation raised", [](journal&) {});
  EXPECT_EQ(journal(folder).generation(), 2u);
  EXPECT_EQ(journal(folder).generation(), 3u);
}

TEST_F(journal_test, has_one_owner_at_a_time_and_names_it) {
  {
    const journal first(folder);
    try {
      const journal second(folder);
      FAIL();
    } catch (const fault& why) {
      EXPECT_EQ(why.code(), fault_code::bad_input);
      EXPECT_EQ(why.where(), folder.string());
      EXPECT_THAT(why.reason(), HasSubstr("another coordinator has this journal (process " + std::to_string(getpid())));
    }
  }
  EXPECT_EQ(journal(folder).generation(), 2u);
}

TEST_F(journal_test, a_run_that_has_begun_is_there_with_its_newest_attempts_until_it_has_ended) {
  begun_run run{.run = 77, .plan = started(1).plan, .attempts = {0}};
  {
    journal first(folder);
    EXPECT_EQ(first.keep(asked("a"), ids), 1u);
    EXPECT_FALSE(first.unfinished().at(0).begun);
    first.began(1, run);
    run.attempts = {3};
    first.began(1, run);
  }
  {
    journal second(folder);
    EXPECT_EQ(second.unfinished().at(0).begun, run);
    run.run = 78;  // it has begun anew
    second.began(1, run);
  }
  journal third(folder);
  EXPECT_EQ(third.find("a")->begun, run);
  third.ended(1, {}, finished(1));
  EXPECT_FALSE(third.find(1)->begun);
}

TEST_F(journal_test, the_data_planes_root_is_the_same_for_all_coordinators_and_only_their_own) {
  const auto root = journal(folder).data_plane_root();
  EXPECT_EQ(journal(folder).data_plane_root(), root);
  const auto file = folder / "data-plane.key";
  EXPECT_EQ(std::filesystem::status(file).permissions() & std::filesystem::perms::all,
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const temporary_directory other;
  EXPECT_NE(journal(other.path()).data_plane_root(), root);
  std::ofstream(file) << "short";
  EXPECT_THROW(static_cast<void>(journal(folder).data_plane_root()), fault);
}

TEST_F(journal_test, numbers_are_never_used_twice_and_the_oldest_ends_are_forgotten) {
  journal j(folder, {.ended_max = 2});
  std::vector<job_id> known;
  for (int i = 0; i < 5; ++i) {
    known.push_back(j.keep(asked(std::to_string(i)), ids));
    if (i > 0) j.ended(known.back(), {}, finished(known.back()));
  }
  EXPECT_THAT(known, ElementsAre(1, 2, 3, 4, 5));
  std::vector<job_id> left;
  for (const auto& job : j.newest(10)) left.push_back(job.id);
  EXPECT_THAT(left, ElementsAre(5, 4, 1)) << "one that has not ended stays";
}

TEST_F(journal_test, a_damaged_document_is_told_and_not_computed) {
  journal j(folder);
  const auto id = j.keep(asked("a"), ids);
  std::ofstream(documents().at(0), std::ios::binary | std::ios::app) << "more";
  try {
    static_cast<void>(j.ids_of(id));
    FAIL();
  } catch (const fault& why) {
    EXPECT_EQ(why.code(), fault_code::corruption);
    EXPECT_EQ(why.where(), documents().at(0).string());
  }
}

TEST_F(journal_test, of_another_version_or_in_a_place_that_cannot_be_is_refused) {
  { const journal j(folder); }
  sqlite3* database = nullptr;
  sqlite3_open((folder / "journal.sqlite").c_str(), &database);
  sqlite3_exec(database, "PRAGMA user_version=77", nullptr, nullptr, nullptr);
  sqlite3_close(database);
  try {
    const journal j(folder);
    FAIL();
  } catch (const fault& why) {
    EXPECT_THAT(why.reason(), HasSubstr("version 77"));
  }
  std::ofstream(temporary.path() / "file") << "x";
  EXPECT_THROW(journal(temporary.path() / "file"), fault);
}

TEST_F(journal_test, lets_nobody_write_who_was_superseded) {
  journal older(folder);
  const auto running = older.keep(asked("a"), ids);
  // Only a lost lock lets another one in while this one lives.
  std::filesystem::remove(folder / "lock");
  journal newer(folder);
  EXPECT_EQ(newer.generation(), older.generation() + 1);
  EXPECT_THROW(older.keep(asked("b"), ids), superseded);
  EXPECT_THROW(older.began(running, {.run = 7, .plan = started(running).plan, .attempts = {0}}), superseded);
  EXPECT_THROW(older.ended(running, {}, finished(running)), superseded);
  EXPECT_FALSE(newer.find("b"));
  EXPECT_FALSE(newer.find(running)->end);
  EXPECT_FALSE(documents().empty()) << "the newer one needs it";
  newer.ended(running, {}, finished(running));
  EXPECT_TRUE(newer.find(running)->end);
}

TEST_F(journal_test, takes_nothing_where_there_is_no_room_and_goes_on_when_there_is) {
  // A limit to the size of files stands for a disk that is full: any user may set it. In a process of its own.
  const int child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    journal j(folder);
    const auto kept = j.keep(asked("before"), ids);
    const rlimit full{1, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &full);
    int refused = 0;
    try {
      j.keep(asked("document"), std::vector<std::int32_t>(1000, 1));
    } catch (const fault&) {
      ++refused;
    }
    try {
      j.keep(asked("row"), ids);  // the document is there already
    } catch (const fault&) {
      ++refused;
    }
    try {
      j.ended(kept, {}, finished(kept));
    } catch (const fault&) {
      ++refused;
    }
    const rlimit room{RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &room);
    if (refused != 3 || j.find("document") || j.find("row") || j.find(kept)->end) _exit(1);
    j.ended(kept, {}, finished(kept));
    j.keep(asked("after"), ids);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  journal j(folder);
  ASSERT_EQ(j.unfinished().size(), 1u);
  EXPECT_EQ(j.unfinished()[0].asked.request_id, "after");
  EXPECT_TRUE(j.find("before")->end);
  EXPECT_EQ(documents().size(), 1u);
}

}  // namespace
}  // namespace baton
