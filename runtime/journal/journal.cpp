#include "runtime/journal/journal.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <unistd.h>

#include "kernels/fault.hpp"
#include "runtime/wire/codec.hpp"

namespace baton {
namespace {

namespace fs = std::filesystem;

constexpr int version = 1;
constexpr const char* columns = "id, asked, state, started, ended, run, begun, attempts";
constexpr const char* jobs_and_runs = "jobs LEFT JOIN runs ON runs.job = jobs.id AND jobs.state = 0";

[[noreturn]] void refuse(const fs::path& where, int error) {
  const auto code = error == ENOSPC || error == EDQUOT ? fault_code::out_of_memory : fault_code::device;
  throw fault(code, std::strerror(error), where.string());
}

/// A descriptor that is closed in the end.
class open_file {
 public:
  open_file(const fs::path& path, int flags) : path_(path), descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    if (descriptor_ < 0) refuse(path, errno);
  }
  ~open_file() { ::close(descriptor_); }
  open_file(const open_file&) = delete;
  open_file& operator=(const open_file&) = delete;

  [[nodiscard]] int get() const { return descriptor_; }
  void write(std::string_view bytes) const {
    while (!bytes.empty()) {
      const auto count = ::write(descriptor_, bytes.data(), bytes.size());
      if (count < 0 && errno != EINTR) refuse(path_, errno);
      if (count > 0) bytes.remove_prefix(static_cast<std::size_t>(count));
    }
  }
  void sync() const {
    if (fsync(descriptor_) != 0) refuse(path_, errno);
  }

 private:
  const fs::path path_;
  const int descriptor_;
};

std::string_view bytes_of(std::span<const std::int32_t> ids) {
  return {reinterpret_cast<const char*>(ids.data()), ids.size_bytes()};
}

std::string hash_of(std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1)
    throw fault(fault_code::internal, "SHA-256 is not to be had", "libcrypto");
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

}  // namespace

/// Held as long as the process lives, however it ends.
class journal::folder_lock {
 public:
  explicit folder_lock(const fs::path& file) : file_(file, O_RDWR | O_CREAT) {
    if (flock(file_.get(), LOCK_EX | LOCK_NB) != 0) {
      std::string pid;
      std::getline(std::ifstream(file), pid);
      throw fault(fault_code::bad_input,
                  fmt::format("another coordinator has this journal (process {}); stop it, or give this one another "
                              "coordinator.journal",
                              pid.empty() ? "unknown" : pid),
                  file.parent_path().string());
    }
    if (ftruncate(file_.get(), 0) == 0) file_.write(fmt::format("{}\n", getpid()));
  }

 private:
  open_file file_;
};

void journal::close_database::operator()(sqlite3* database) const { sqlite3_close(database); }

/// One prepared statement; the numbers of parameters and columns are SQLite's.
class journal::statement {
 public:
  statement(const journal& owner, const std::string& sql) : owner_(owner) {
    check(sqlite3_prepare_v2(owner.database_.get(), sql.c_str(), -1, &handle_, nullptr));
  }
  ~statement() { sqlite3_finalize(handle_); }
  statement(const statement&) = delete;
  statement& operator=(const statement&) = delete;

  statement& bind(int parameter, std::int64_t value) {
    check(sqlite3_bind_int64(handle_, parameter, value));
    return *this;
  }
  statement& bind(int parameter, std::string_view text) {
    check(sqlite3_bind_text(handle_, parameter, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT));
    return *this;
  }
  statement& bind_bytes(int parameter, std::string_view bytes) {
    check(sqlite3_bind_blob(handle_, parameter, bytes.data(), static_cast<int>(bytes.size()), SQLITE_TRANSIENT));
    return *this;
  }
  /// False: there is no further row.
  bool step() {
    const int result = sqlite3_step(handle_);
    if (result != SQLITE_ROW && result != SQLITE_DONE) check(result);
    return result == SQLITE_ROW;
  }
  [[nodiscard]] std::int64_t number(int column) const { return sqlite3_column_int64(handle_, column); }
  [[nodiscard]] bool has(int column) const { return sqlite3_column_type(handle_, column) != SQLITE_NULL; }
  [[nodiscard]] std::string bytes(int column) const {
    const auto* data = static_cast<const char*>(sqlite3_column_blob(handle_, column));
    return data ? std::string(data, static_cast<std::size_t>(sqlite3_column_bytes(handle_, column))) : std::string();
  }

 private:
  void check(int result) const {
    if (result == SQLITE_OK) return;
    throw fault(result == SQLITE_FULL ? fault_code::out_of_memory : fault_code::device,
                sqlite3_errmsg(owner_.database_.get()), (owner_.folder_ / "journal.sqlite").string());
  }

  const journal& owner_;
  sqlite3_stmt* handle_ = nullptr;
};

journal::journal(const fs::path& folder, options how) : folder_(folder), options_(std::move(how)) {
  std::error_code error;
  fs::create_directories(folder_ / "documents", error);
  if (error) throw fault(fault_code::bad_input, "the journal's folder cannot be made: " + error.message(), folder_);
  if (access(folder_.c_str(), W_OK) != 0)
    throw fault(fault_code::bad_input, "the journal's folder cannot be written", folder_);
  lock_ = std::make_unique<folder_lock>(folder_ / "lock");
  sqlite3* database = nullptr;
  const int opened = sqlite3_open(folder_.string().append("/journal.sqlite").c_str(), &database);
  database_.reset(database);
  if (opened != SQLITE_OK)
    throw fault(fault_code::device, sqlite3_errmsg(database), (folder_ / "journal.sqlite").string());
  execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL");
  prepare_tables();
  done("opened");
  raise_generation();
  done("generation raised");
  remove_unneeded_documents();
}

journal::~journal() = default;

void journal::done(std::string_view step) const {
  if (options_.after_step) options_.after_step(step);
}

void journal::execute(const char* sql) {
  if (sqlite3_exec(database_.get(), sql, nullptr, nullptr, nullptr) != SQLITE_OK)
    throw fault(fault_code::device, sqlite3_errmsg(database_.get()), (folder_ / "journal.sqlite").string());
}

void journal::prepare_tables() {
  statement found(*this, "PRAGMA user_version");
  found.step();
  if (const auto is = found.number(0); is != 0 && is != version) {
    throw fault(
        fault_code::bad_input,
        fmt::format("this journal is of version {}, this program reads {}; give it another folder", is, version),
        (folder_ / "journal.sqlite").string());
  }
  execute(
      "BEGIN;"
      "CREATE TABLE IF NOT EXISTS starts (generation INTEGER NOT NULL);"
      "CREATE TABLE IF NOT EXISTS jobs ("
      "  id INTEGER PRIMARY KEY AUTOINCREMENT,"  // numbers are never used twice, not even those of forgotten jobs
      "  request TEXT NOT NULL UNIQUE,"
      "  asked BLOB NOT NULL,"     // submit_job, as a ClientRequest
      "  document TEXT NOT NULL,"  // SHA-256 of document ++ query
      "  state INTEGER NOT NULL,"  // job_state
      "  started BLOB,"            // job_started and what the job ended with, as ClientUpdates
      "  ended BLOB);"
      "CREATE TABLE IF NOT EXISTS runs ("
      "  job INTEGER PRIMARY KEY,"  // the newest run of each
      "  run INTEGER NOT NULL,"
      "  begun BLOB NOT NULL,"      // job_started with the plan, as a ClientUpdate
      "  attempts TEXT NOT NULL);"  // of each rank, separated by spaces
      "PRAGMA user_version=1;"
      "COMMIT");
}

void journal::raise_generation() {
  execute("BEGIN");
  execute("INSERT INTO starts SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM starts)");
  execute("UPDATE starts SET generation = generation + 1");
  execute("COMMIT");
  statement found(*this, "SELECT generation FROM starts");
  found.step();
  generation_ = static_cast<std::uint64_t>(found.number(0));
}

void journal::remove_unneeded_documents() {
  std::set<fs::path> needed;
  statement found(*this, "SELECT document FROM jobs WHERE state = 0");
  while (found.step()) needed.insert(document_file(found.bytes(0)));
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder_ / "documents", ignored)) {
    if (!needed.contains(entry.path())) fs::remove(entry.path(), ignored);
  }
}

fs::path journal::document_file(const std::string& hash) const { return folder_ / "documents" / (hash + ".ids"); }

void journal::write_file(const fs::path& file, std::string_view bytes, std::string_view step) const {
  const auto unfinished = fs::path(file).concat(".new");
  try {
    {
      const open_file out(unfinished, O_WRONLY | O_CREAT | O_TRUNC);
      out.write(bytes);
      out.sync();
    }
    done(step);
    if (rename(unfinished.c_str(), file.c_str()) != 0) refuse(file, errno);
    open_file(file.parent_path(), O_RDONLY | O_DIRECTORY).sync();
  } catch (const fault&) {
    std::error_code ignored;
    fs::remove(unfinished, ignored);
    throw;
  }
}

void journal::write_document(const std::string& hash, std::span<const std::int32_t> ids) const {
  const auto file = document_file(hash);
  if (fs::exists(file)) return;  // by its name it is what it should be
  write_file(file, bytes_of(ids), "document written");
  done("document named");
}

secret_key journal::data_plane_root() {
  const auto file = folder_ / "data-plane.key";
  secret_key root{};
  if (!fs::exists(file)) {
    root = random_key();
    write_file(file, {reinterpret_cast<const char*>(root.data()), root.size()}, "key written");
    return root;
  }
  std::ifstream in(file, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  if (bytes.size() != root.size())
    throw fault(fault_code::corruption, "the data plane's key is damaged; remove it, and running jobs begin anew",
                file.string());
  std::memcpy(root.data(), bytes.data(), root.size());
  return root;
}

job_id journal::keep(const submit_job& asked, std::span<const std::int32_t> ids) {
  const auto hash = hash_of(bytes_of(ids));
  write_document(hash, ids);
  statement insert(
      *this,
      "INSERT INTO jobs (request, asked, document, state) SELECT ?, ?, ?, 0 FROM starts WHERE generation = ? "
      "RETURNING id");
  insert.bind(1, asked.request_id).bind_bytes(2, encode(client_request(asked))).bind(3, hash);
  insert.bind(4, static_cast<std::int64_t>(generation_));
  bool kept = false;
  while (insert.step()) kept = true;
  if (!kept) expect_to_be_the_newest();
  done("submission kept");
  return static_cast<job_id>(sqlite3_last_insert_rowid(database_.get()));
}

std::vector<stored_job> journal::all_of(statement& found) const {
  std::vector<stored_job> jobs;
  while (found.step()) {
    stored_job job{.id = static_cast<job_id>(found.number(0)), .asked = {}};
    job.asked = std::get<submit_job>(decode_client_request(found.bytes(1)));
    job.state = static_cast<job_state>(found.number(2));
    if (found.has(3)) job.started = std::get<job_started>(decode_client_update(found.bytes(3)));
    if (found.has(4)) job.end = decode_client_update(found.bytes(4));
    if (found.has(5)) {
      begun_run begun{.run = static_cast<job_id>(found.number(5)),
                      .plan = std::get<job_started>(decode_client_update(found.bytes(6))).plan,
                      .attempts = {}};
      std::istringstream attempts(found.bytes(7));
      for (std::uint32_t attempt = 0; attempts >> attempt;) begun.attempts.push_back(attempt);
      begun.attempts.resize(begun.plan.shards.size());
      job.begun = std::move(begun);
    }
    jobs.push_back(std::move(job));
  }
  return jobs;
}

std::optional<stored_job> journal::find(job_id id) {
  statement found(*this, fmt::format("SELECT {} FROM {} WHERE id = ?", columns, jobs_and_runs));
  const auto jobs = all_of(found.bind(1, static_cast<std::int64_t>(id)));
  return jobs.empty() ? std::nullopt : std::optional(jobs.front());
}

std::optional<stored_job> journal::find(const std::string& request_id) {
  statement found(*this, fmt::format("SELECT {} FROM {} WHERE request = ?", columns, jobs_and_runs));
  const auto jobs = all_of(found.bind(1, request_id));
  return jobs.empty() ? std::nullopt : std::optional(jobs.front());
}

std::vector<std::int32_t> journal::ids_of(job_id id) {
  statement found(*this, "SELECT document FROM jobs WHERE id = ?");
  found.bind(1, static_cast<std::int64_t>(id));
  if (!found.step()) throw fault(fault_code::internal, fmt::format("job {} is not known", id), folder_.string());
  const auto hash = found.bytes(0);
  const auto file = document_file(hash);
  std::ifstream in(file, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  if (bytes.size() % sizeof(std::int32_t) != 0 || hash_of(bytes) != hash)
    throw fault(fault_code::corruption, "the document is damaged or gone; ask for the job again", file.string());
  std::vector<std::int32_t> ids(bytes.size() / sizeof(std::int32_t));
  std::memcpy(ids.data(), bytes.data(), bytes.size());
  return ids;
}

void journal::began(job_id id, const begun_run& run) {
  statement insert(*this,
                   "INSERT OR REPLACE INTO runs (job, run, begun, attempts) SELECT ?, ?, ?, ? FROM starts "
                   "WHERE generation = ? RETURNING job");
  insert.bind(1, static_cast<std::int64_t>(id)).bind(2, static_cast<std::int64_t>(run.run));
  insert.bind_bytes(3, encode(client_update(job_started{id, run.plan})));
  const auto attempts = fmt::format("{}", fmt::join(run.attempts, " "));
  insert.bind(4, attempts).bind(5, static_cast<std::int64_t>(generation_));
  bool kept = false;
  while (insert.step()) kept = true;
  if (!kept) expect_to_be_the_newest();
  done("run kept");
}

void journal::ended(job_id id, const std::optional<job_started>& started, const client_update& end) {
  statement update(*this,
                   "UPDATE jobs SET state = ?, started = ?, ended = ? WHERE id = ? "
                   "AND (SELECT generation FROM starts) = ? RETURNING document");
  update.bind(1, static_cast<std::int64_t>(state_of(end)));
  if (started) update.bind_bytes(2, encode(client_update(*started)));
  update.bind_bytes(3, encode(end)).bind(4, static_cast<std::int64_t>(id));
  update.bind(5, static_cast<std::int64_t>(generation_));
  std::string hash;
  while (update.step()) hash = update.bytes(0);
  if (hash.empty()) expect_to_be_the_newest();
  done("end kept");
  statement others(*this, "SELECT 1 FROM jobs WHERE document = ? AND state = 0");
  std::error_code ignored;
  if (!others.bind(1, hash).step()) fs::remove(document_file(hash), ignored);
  done("document removed");
  statement run_of_it(*this, "DELETE FROM runs WHERE job = ?");
  run_of_it.bind(1, static_cast<std::int64_t>(id)).step();
  forget_the_oldest();
}

void journal::expect_to_be_the_newest() const {
  statement found(*this, "SELECT generation FROM starts");
  const auto newest = found.step() ? static_cast<std::uint64_t>(found.number(0)) : 0;
  if (newest != generation_) throw superseded(folder_.string(), newest);
}

void journal::forget_the_oldest() {
  statement old(*this,
                "DELETE FROM jobs WHERE state != 0 AND id <= (SELECT id FROM jobs WHERE state != 0 ORDER BY id DESC "
                "LIMIT 1 OFFSET ?)");
  old.bind(1, static_cast<std::int64_t>(options_.ended_max));
  old.step();
}

std::vector<stored_job> journal::unfinished() {
  statement found(*this, fmt::format("SELECT {} FROM {} WHERE state = 0 ORDER BY id", columns, jobs_and_runs));
  return all_of(found);
}

std::vector<job_summary> journal::newest(std::size_t count_max) {
  statement found(*this, fmt::format("SELECT {} FROM {} ORDER BY id DESC LIMIT ?", columns, jobs_and_runs));
  std::vector<job_summary> all;
  for (const auto& job : all_of(found.bind(1, static_cast<std::int64_t>(count_max)))) all.push_back(summary_of(job));
  return all;
}

}  // namespace baton
