#include <fmt/format.h>

#include <atomic>
#include <cstring>
#include <exception>
#include <filesystem>
#include <random>
#include <span>
#include <system_error>
#include <thread>
#include <utility>

#include "core/base/hash.h"
#include "core/base/posix_file.h"
#include "core/io/checkpoint.h"
#include "core/io/checkpoint_folder.h"
#include "core/io/checkpoint_index.h"
#include "parallel/agree.h"

namespace rwkv {

// A dataset of this rank's file.
struct CheckpointPiece {
  std::string name;
  Tensor content;
};

namespace {

namespace fs = std::filesystem;

// What the store has of these elements of a parameter; empty: it has no moments.
Tensor piece_of(const ParamStore& store, std::string_view kind, const Extent& extent) {
  const auto i = static_cast<size_t>(extent.param);
  const bool weights = kind == "weights";
  const Tensor moments = kind == "moment1" ? store.moment1(i) : store.moment2(i);
  const Tensor all = weights ? store.master(i) : moments;
  if (all.empty()) return {};
  // The moments of a part begin where the part does.
  const int64_t first = weights ? 0 : store.own(i).begin;
  return all.reshaped({all.elements()}).rows(extent.begin - first, extent.end - first);
}

std::vector<CheckpointPiece> own_pieces(const ParamStore& store, int rank, int ranks) {
  std::vector<CheckpointPiece> pieces;
  for (const Extent& extent : shard(store.specs(), ranks, rank)) {
    for (std::string_view kind : kCheckpointKinds) {
      const Tensor content = piece_of(store, kind, extent);
      if (content.empty()) continue;
      const std::string& param = store.specs()[static_cast<size_t>(extent.param)].name;
      pieces.push_back({dataset_name(kind, param), content});
    }
  }
  return pieces;
}

// Moves the contents into memory of their own, so that training can go on.
Buffer copy_contents(std::vector<CheckpointPiece>& pieces, const Memory& from) {
  int64_t bytes = 0;
  for (const CheckpointPiece& piece : pieces) bytes += piece.content.bytes();
  Buffer memory(bytes);
  std::byte* to = memory.data();
  for (CheckpointPiece& piece : pieces) {
    from.copy({}, to, piece.content.data, piece.content.bytes());
    piece.content.data = to;
    to += piece.content.bytes();
  }
  return memory;
}

// The file of this rank, on the disk, and its name in the folder too: each rank may be on a host of
// its own, with a view of its own of the shared file system.
StoredFile write_own_file(const std::string& folder, const CheckpointInfo& info,
                          const std::vector<CheckpointPiece>& pieces, int rank) {
  const std::string path = folder + "/" + rank_file(rank);
  Hdf5File file = Hdf5File::create(path);
  try {
    file.set_attribute("run_id", info.run_id);
    file.set_attribute("step", info.step);
    for (const CheckpointPiece& piece : pieces) file.write(piece.name, piece.content);
    file.close();
  } catch (const Error&) {
    // The library closes a file only when it can write the rest of it: a full disk gets room.
    std::error_code ignored;
    fs::resize_file(path, 0, ignored);
    throw;
  }
  fsync_path(folder);
  return digest_file(path);
}

// Says so before anything is written when the disk cannot hold the checkpoint for sure.
void require_room(const std::string& folder, const ParamStore& store) {
  const bool moments = !store.all_gradients().empty();
  const int64_t bytes = count_elements(store.specs()) * bytes_of(store.master(0).dtype) *
                        (moments ? std::ssize(kCheckpointKinds) : 1);
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error || space.capacity == 0) return;  // a file system that does not tell
  if (space.free < static_cast<uintmax_t>(bytes)) {
    throw IoError(fmt::format("{}: needs {} bytes, {} are free: {}", folder, bytes, space.free,
                              std::make_error_code(std::errc::no_space_on_device).message()));
  }
}

// What every rank wrote, on every rank.
std::vector<StoredFile> gather(const StoredFile& own, Communicator& comm) {
  const std::vector<int64_t> mine = {own.bytes, static_cast<int64_t>(own.hash)};
  std::vector<int64_t> all(2 * static_cast<size_t>(comm.size()));
  Stream stream;
  comm.all_gather(view_of(mine.data(), {2}), view_of(all.data(), {2 * int64_t{comm.size()}}),
                  stream)
      ->wait();
  std::vector<StoredFile> files;
  for (size_t i = 0; i < all.size(); i += 2) {
    files.push_back({all[i], static_cast<uint64_t>(all[i + 1])});
  }
  return files;
}

// All but the files.
CheckpointIndex index_of(const CheckpointInfo& info, const ParamStore& store, int ranks) {
  CheckpointIndex index;
  index.info = info;
  index.info.weights_hash = store.hash();
  index.dtype = store.master(0).dtype;
  index.moments = !store.all_gradients().empty();
  if (store.exact()) index.scales = store.scales();
  for (const ParamSpec& spec : store.specs()) index.params.emplace_back(spec.name, spec.shape);
  for (int rank = 0; rank < ranks; ++rank) {
    for (const Extent& e : shard(store.specs(), ranks, rank)) {
      index.extents.push_back({rank, static_cast<size_t>(e.param), e.begin, e.end});
    }
  }
  return index;
}

// Frees the disk even where the library, after a write that failed, still holds a file open.
void remove_temporary(const std::string& folder) {
  std::error_code ignored;  // what went wrong before is what there is to tell
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    fs::resize_file(entry.path(), 0, ignored);
  }
  fs::remove_all(folder, ignored);
}

// What a killed job left half written, as far as it can be removed.
void remove_unfinished(const std::string& folder) {
  std::vector<fs::path> unfinished;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path& path = entry.path();
    const bool ours = path.filename().string().starts_with("step-");
    if (ours && path.extension() == ".tmp") unfinished.push_back(path);
  }
  std::error_code left;
  for (const fs::path& path : unfinished) fs::remove_all(path, left);
}

// From here on the checkpoint counts. One that has its place steps aside, and goes last.
void put_in_place(const std::string& temporary, const std::string& final_path,
                  const std::string& folder) {
  const std::string replaced = final_path + ".replaced.tmp";
  const bool replaces = fs::exists(final_path);
  if (replaces) fs::rename(final_path, replaced);
  std::error_code error;
  fs::rename(temporary, final_path, error);
  if (error) {
    if (replaces) fs::rename(replaced, final_path);
    throw IoError(final_path + ": cannot put it in place: " + error.message());
  }
  fsync_path(folder);
  std::error_code left;
  if (replaces) fs::remove_all(replaced, left);
}

// Loses its name before its files: a folder named step-N is whole at any moment.
void remove_checkpoint(const std::string& path) {
  const std::string unnamed = path + ".removed.tmp";
  std::error_code left;
  fs::rename(path, unnamed, left);
  if (!left) fs::remove_all(unnamed, left);
}

// Steps above the one just saved are not of this run's past: they are not counted. One that cannot
// be removed stays: the new one counts all the same.
void remove_old(const std::string& folder, int64_t step, int64_t keep) {
  std::vector<int64_t> steps = steps_in(folder);
  std::erase_if(steps, [&](int64_t s) { return s > step; });
  if (keep <= 0) return;
  for (size_t i = 0; i + static_cast<size_t>(keep) < steps.size(); ++i) {
    remove_checkpoint(step_path(folder, steps[i]));
  }
}

}  // namespace

std::string make_run_id() {
  std::random_device device;
  return to_hex(uint64_t{device()} << 32 | device());
}

// One checkpoint on its way to the disk.
struct PendingCheckpoint::Work {
  Work(std::string to, CheckpointInfo about, int64_t kept, Communicator& ranks)
      : folder(std::move(to)),
        final_path(step_path(folder, about.step)),
        temporary(final_path + ".tmp"),
        info(std::move(about)),
        keep(kept),
        comm(ranks) {}

  void prepare(const ParamStore& store) {
    on_root(comm, [&] {
      make_directories(folder);
      remove_unfinished(folder);
    });
    clean_after_failure([&] {
      on_root(comm, [&] {
        make_directories(temporary);
        require_room(temporary, store);
      });
      agree(comm, [&] {
        pieces = own_pieces(store, comm.rank(), comm.size());
        where = &store.memory();
        index = index_of(info, store, comm.size());
      });
    });
  }

  void write() { own = write_own_file(temporary, info, pieces, comm.rank()); }
  void copy() { copies = copy_contents(pieces, *where); }

  // After write() on every rank; `thrown`: by this rank's.
  void commit(const std::exception_ptr& thrown) {
    clean_after_failure([&] {
      agree(comm, [&] {
        if (thrown != nullptr) std::rethrow_exception(thrown);
      });
      index.files = gather(own, comm);
      on_root(comm, [&] { put_down(); });
    });
  }

  void put_down() {
    write_index(temporary, index);
    fsync_path(temporary);
    put_in_place(temporary, final_path, folder);
    // From here on it counts, whatever fails: readers go by the names of folders.
    const bool named = name_latest();
    remove_old(folder, info.step, keep);
    if (!named) name_latest();  // now there may be room
  }

  bool name_latest() const {
    try {
      replace_file(folder + "/latest", fmt::format("step-{}\n", info.step));
      return true;
    } catch (const IoError&) {
      return false;
    }
  }

  template <class Body>
  void clean_after_failure(const Body& body) {
    try {
      body();
    } catch (const AgreedError&) {
      if (comm.rank() == 0) remove_temporary(temporary);
      throw;
    }
  }

  std::string folder, final_path, temporary;
  CheckpointInfo info;
  int64_t keep;
  Communicator& comm;
  CheckpointIndex index;
  std::vector<CheckpointPiece> pieces;
  const Memory* where = nullptr;  // of the pieces, until they are copied
  StoredFile own;
  // Of the thread.
  Buffer copies;
  std::exception_ptr failure;
  std::atomic<bool> written = false;
  std::thread thread;
};

void save_checkpoint(const std::string& folder, const CheckpointInfo& info, const ParamStore& store,
                     int64_t keep, Communicator& comm) {
  PendingCheckpoint::write_now(folder, info, store, keep, comm);
}

void PendingCheckpoint::write_now(const std::string& folder, const CheckpointInfo& info,
                                  const ParamStore& store, int64_t keep, Communicator& comm) {
  Work work(folder, info, keep, comm);
  work.prepare(store);
  std::exception_ptr failure;
  try {
    if (!store.memory().host) work.copy();
    work.write();
  } catch (...) {
    failure = std::current_exception();
  }
  work.commit(failure);
}

PendingCheckpoint::PendingCheckpoint(const std::string& folder, const CheckpointInfo& info,
                                     const ParamStore& store, int64_t keep, Communicator& comm)
    : work_(std::make_unique<Work>(folder, info, keep, comm)) {
  work_->prepare(store);
  work_->clean_after_failure([&] { agree(comm, [&] { work_->copy(); }); });
  work_->thread = std::thread([work = work_.get()] {
    try {
      work->write();
    } catch (...) {
      work->failure = std::current_exception();
    }
    work->written = true;
  });
}

PendingCheckpoint::~PendingCheckpoint() {
  if (work_->thread.joinable()) work_->thread.join();
}

int64_t PendingCheckpoint::step() const { return work_->info.step; }

bool PendingCheckpoint::written() const { return work_->written; }

void PendingCheckpoint::finish() {
  work_->thread.join();
  work_->commit(work_->failure);
}

}  // namespace rwkv
