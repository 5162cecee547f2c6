#include "tests/parallel/nccl/fake_nccl.h"

#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "tests/parallel/nccl/fake_cuda.h"

namespace rwkv::fake {

struct Part {
  const std::byte* from;
  std::byte* to;
  size_t count;
};

struct Message {
  const std::byte* from;
  size_t bytes;
  bool taken = false;
};

// One communicator's ranks. Guarded by the mutex.
struct Group {
  std::map<uint64_t, std::vector<Part>> meetings;  // by number of the collective
  std::map<uint64_t, bool> over;
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Message>>> mail;
};

}  // namespace rwkv::fake

struct ncclComm {
  std::shared_ptr<rwkv::fake::Group> group;
  int rank = 0, size = 1;
  uint64_t collectives = 0;
  int polls = 0;
  bool failed = false;
  std::function<void()> pending;  // what starts after the polls
  std::shared_ptr<std::atomic<bool>> aborted = std::make_shared<std::atomic<bool>>(false);
};

namespace rwkv::fake {
namespace {

std::mutex world_mutex;
std::condition_variable changed;
std::atomic<Mood> mood{Mood::kWell};
std::vector<std::string> ends;
std::map<std::string, std::shared_ptr<Group>> groups;
std::atomic<int> ids{0};

// The calling thread's grouped sends and receives.
struct Grouped {
  ncclComm* comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<std::function<void()>> posts, takes;
};
thread_local Grouped grouped;

ncclResult_t later(ncclComm* comm, cudaStream_t stream, std::function<void()> work) {
  const Mood how = mood;
  const auto aborted = comm->aborted;
  if (comm->pending != nullptr) return ncclInvalidUsage;  // the one before has not started
  comm->polls = how == Mood::kNeverStarts ? 1 << 30 : 3;
  comm->failed = how == Mood::kFails;
  comm->pending = [=] {
    if (how == Mood::kNeverEnds) {
      launch(stream, [aborted] {
        std::unique_lock lock(world_mutex);
        changed.wait(lock, [&] { return aborted->load(); });
      });
    } else if (work != nullptr) {
      launch(stream, work);
    }
  };
  return ncclInProgress;
}

// All ranks meet; the last one does the work for all.
void meet(Group& group, uint64_t number, int rank, int size, const Part& part,
          const std::function<void(const std::vector<Part>&)>& work) {
  std::unique_lock lock(world_mutex);
  auto& parts = group.meetings[number];
  parts.resize(static_cast<size_t>(size) + 1);
  parts[static_cast<size_t>(rank)] = part;
  if (++parts.back().count == static_cast<size_t>(size)) {
    work(parts);
    group.over[number] = true;
    changed.notify_all();
  }
  changed.wait(lock, [&] { return group.over[number]; });
}

template <class T>
void reduce(const std::vector<Part>& parts, size_t ranks, ncclRedOp_t how) {
  for (size_t i = 0; i < parts[0].count; ++i) {
    const auto at = [&](size_t r) { return reinterpret_cast<T*>(parts[r].to) + i; };
    T value = *at(0);
    for (size_t r = 1; r < ranks; ++r) {
      value = how == ncclSum   ? static_cast<T>(value + *at(r))
              : how == ncclMax ? std::max(value, *at(r))
                               : std::min(value, *at(r));
    }
    for (size_t r = 0; r < ranks; ++r) *at(r) = value;
  }
}

ncclResult_t collective(ncclComm* comm, cudaStream_t stream, const Part& part,
                        std::function<void(const std::vector<Part>&)> work) {
  const uint64_t number = comm->collectives++;
  return later(comm, stream,
               [group = comm->group, number, rank = comm->rank, size = comm->size, part,
                work = std::move(work)] { meet(*group, number, rank, size, part, work); });
}

void note_end(const char* how) {
  const std::lock_guard lock(world_mutex);
  ends.emplace_back(how);
}

}  // namespace

void set_nccl_mood(Mood m) { mood = m; }

std::vector<std::string> take_nccl_ends() {
  const std::lock_guard lock(world_mutex);
  return std::exchange(ends, {});
}

}  // namespace rwkv::fake

using namespace rwkv::fake;

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t) { return "remote process exited"; }
const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::string text = "id " + std::to_string(ids++);
  std::memcpy(id->internal, text.c_str(), text.size() + 1);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidArgument;
  const std::lock_guard lock(world_mutex);
  auto& group = groups[id.internal];
  if (group == nullptr) group = std::make_shared<Group>();
  *comm = new ncclComm;
  (*comm)->group = group;
  (*comm)->rank = rank;
  (*comm)->size = size;
  return later(*comm, nullptr, nullptr);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  *error = ncclSuccess;
  if (comm->pending != nullptr && comm->polls-- > 0) {
    *error = ncclInProgress;
  } else if (comm->failed) {
    *error = ncclRemoteError;
  } else if (const auto pending = std::exchange(comm->pending, nullptr)) {
    pending();
  }
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  note_end("finalized");
  return later(comm, nullptr, nullptr);
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  note_end("destroyed");
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  note_end("aborted");
  {
    const std::lock_guard lock(world_mutex);
    *comm->aborted = true;
    changed.notify_all();
  }
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void*, void* to, size_t count, ncclDataType_t type,
                           ncclRedOp_t how, ncclComm_t comm, cudaStream_t stream) {
  const auto ranks = static_cast<size_t>(comm->size);
  return collective(comm, stream, {nullptr, static_cast<std::byte*>(to), count},
                    [=](const std::vector<Part>& parts) {
                      if (type == ncclFloat64) reduce<double>(parts, ranks, how);
                      if (type == ncclFloat32) reduce<float>(parts, ranks, how);
                      if (type == ncclInt64) reduce<int64_t>(parts, ranks, how);
                      if (type == ncclInt32) reduce<int32_t>(parts, ranks, how);
                    });
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t bytes, ncclDataType_t,
                           ncclComm_t comm, cudaStream_t stream) {
  const auto ranks = static_cast<size_t>(comm->size);
  return collective(comm, stream,
                    {static_cast<const std::byte*>(from), static_cast<std::byte*>(to), bytes},
                    [=](const std::vector<Part>& parts) {
                      for (size_t r = 0; r < ranks; ++r) {
                        for (size_t q = 0; q < ranks; ++q) {
                          std::memmove(parts[r].to + q * bytes, parts[q].from, bytes);
                        }
                      }
                    });
}

ncclResult_t ncclBroadcast(const void*, void* to, size_t bytes, ncclDataType_t, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  const auto ranks = static_cast<size_t>(comm->size);
  return collective(comm, stream, {nullptr, static_cast<std::byte*>(to), bytes},
                    [=](const std::vector<Part>& parts) {
                      for (size_t r = 0; r < ranks; ++r) {
                        std::memmove(parts[r].to, parts[static_cast<size_t>(root)].to, bytes);
                      }
                    });
}

ncclResult_t ncclGroupStart() {
  grouped = {};
  return ncclSuccess;
}

ncclResult_t ncclSend(const void* from, size_t bytes, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  grouped.comm = comm;
  grouped.stream = stream;
  auto message = std::make_shared<Message>(Message{static_cast<const std::byte*>(from), bytes});
  const std::pair way{comm->rank, peer};
  grouped.posts.push_back([=, group = comm->group] {
    const std::lock_guard lock(world_mutex);
    group->mail[way].push_back(message);
    changed.notify_all();
  });
  grouped.takes.push_back([=] {
    std::unique_lock lock(world_mutex);
    changed.wait(lock, [&] { return message->taken; });
  });
  return ncclSuccess;
}

ncclResult_t ncclRecv(void* to, size_t, ncclDataType_t, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  grouped.comm = comm;
  grouped.stream = stream;
  const std::pair way{peer, comm->rank};
  // Before the waits for one's own messages to be taken.
  grouped.takes.insert(grouped.takes.begin(), [=, group = comm->group] {
    std::unique_lock lock(world_mutex);
    auto& mail = group->mail[way];
    changed.wait(lock, [&] { return !mail.empty(); });
    std::memcpy(to, mail.front()->from, mail.front()->bytes);
    mail.front()->taken = true;
    mail.pop_front();
    changed.notify_all();
  });
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  return later(grouped.comm, grouped.stream, [posts = grouped.posts, takes = grouped.takes] {
    for (const auto& post : posts) post();
    for (const auto& take : takes) take();
  });
}
