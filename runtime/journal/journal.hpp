#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/cluster/job_store.hpp"
#include "runtime/security/crypto.hpp"

struct sqlite3;

namespace baton {

/// What the coordinator must not forget, in a folder: `journal.sqlite` (write-ahead log, every commit synced) with submissions,
/// runs and results, `data-plane.key`, and `documents/HASH.ids`, the token ids of each job that has not ended. Exactly one process at a time has it open: a
/// lock sees to it, and should that be lost (a file system without locks, a lock file that somebody removed), what is committed
/// names the generation that commits, and throws `superseded` once there is a higher one. One thread.
///
/// Whatever is killed when: a job is in the table only if its document is whole on the disk; a document that no job needs is
/// removed at the next opening.
class journal final : public job_store {
 public:
  struct options {
    std::size_t ended_max = 1000;  ///< ended jobs that are remembered, the newest
    /// For tests: called after each step with its name.
    std::function<void(std::string_view)> after_step;
  };

  /// Makes the folder where there is none, and raises the generation. Throws fault(bad_input): it cannot be written, another
  /// process has it, or it is of another version; fault(device): SQLite's reason.
  explicit journal(const std::filesystem::path& folder) : journal(folder, options{}) {}
  journal(const std::filesystem::path& folder, options how);
  ~journal() override;
  journal(const journal&) = delete;
  journal& operator=(const journal&) = delete;

  [[nodiscard]] std::uint64_t generation() const override { return generation_; }
  void expect_to_be_the_newest() const override;
  job_id keep(const submit_job& asked, std::span<const std::int32_t> ids) override;
  [[nodiscard]] std::optional<stored_job> find(job_id id) override;
  [[nodiscard]] std::optional<stored_job> find(const std::string& request_id) override;
  [[nodiscard]] std::vector<std::int32_t> ids_of(job_id id) override;
  void began(job_id id, const begun_run& run) override;
  void ended(job_id id, const std::optional<job_started>& started, const client_update& end) override;
  [[nodiscard]] std::vector<stored_job> unfinished() override;
  [[nodiscard]] std::vector<job_summary> newest(std::size_t count_max) override;

  /// What the data plane's keys follow from: the same for every coordinator of this journal, so that who has been let in by one speaks
  /// with who is let in by the next. Drawn at the first call; a file that only its owner may read. Throws fault(device | corruption).
  [[nodiscard]] secret_key data_plane_root();

 private:
  class statement;
  class folder_lock;
  struct close_database {
    void operator()(sqlite3* database) const;
  };

  void prepare_tables();
  void raise_generation();
  void remove_unneeded_documents();
  void forget_the_oldest();
  void execute(const char* sql);
  [[nodiscard]] std::filesystem::path document_file(const std::string& hash) const;
  void write_document(const std::string& hash, std::span<const std::int32_t> ids) const;
  /// Whole or not at all, and on the disk; `step` is done before it has its name.
  void write_file(const std::filesystem::path& file, std::string_view bytes, std::string_view step) const;
  void done(std::string_view step) const;
  [[nodiscard]] std::vector<stored_job> all_of(statement& found) const;

  const std::filesystem::path folder_;
  const options options_;
  std::unique_ptr<folder_lock> lock_;
  std::unique_ptr<sqlite3, close_database> database_;
  std::uint64_t generation_ = 0;
};

}  // namespace baton
