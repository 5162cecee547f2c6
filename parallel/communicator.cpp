#include "parallel/communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "parallel/ticket.h"

namespace rwkv {

namespace {

[[noreturn]] void refuse(std::string_view operation, const std::string& why) {
  throw Error(fmt::format("internal: {}: {}", operation, why));
}

void check_tensor(std::string_view operation, std::string_view name, ConstTensor t) {
  if (t.elements() < 0) refuse(operation, fmt::format("{} has shape {}", name, to_string(t.shape)));
  if (t.data == nullptr && t.elements() > 0) {
    refuse(operation, fmt::format("{} of shape {} has no data", name, to_string(t.shape)));
  }
}

void check_rank(std::string_view operation, std::string_view name, int rank, int size) {
  if (rank < 0 || rank >= size) {
    refuse(operation, fmt::format("{} is rank {}, but there are {} ranks", name, rank, size));
  }
}

bool overlap(ConstTensor a, ConstTensor b) {
  if (a.bytes() == 0 || b.bytes() == 0) return false;
  const auto a_begin = reinterpret_cast<uintptr_t>(a.data);
  const auto b_begin = reinterpret_cast<uintptr_t>(b.data);
  return a_begin < b_begin + static_cast<uintptr_t>(b.bytes()) &&
         b_begin < a_begin + static_cast<uintptr_t>(a.bytes());
}

bool can_reduce(DType type) {
  return type == DType::kF64 || type == DType::kF32 || type == DType::kI64 || type == DType::kI32;
}

template <class T>
T reduce_one(Communicator& comm, T value, Reduce how) {
  Stream stream;
  comm.host().all_reduce(view_of(&value, {1}), how, stream)->wait();
  return value;
}

}  // namespace

std::unique_ptr<Ticket> Communicator::all_reduce(Tensor inout, Reduce how, Stream& stream) {
  check_tensor("all_reduce", "inout", inout);
  if (!can_reduce(inout.dtype)) {
    refuse("all_reduce", fmt::format("{} is not one of f64, f32, i64, i32", name_of(inout.dtype)));
  }
  record_operation(int64_t{2} * (size() - 1) * inout.bytes() / size());
  return do_all_reduce(inout, how, stream);
}

std::unique_ptr<Ticket> Communicator::all_gather(ConstTensor shard, Tensor whole, Stream& stream) {
  check_tensor("all_gather", "shard", shard);
  check_tensor("all_gather", "whole", whole);
  if (shard.dtype != whole.dtype) {
    refuse("all_gather", fmt::format("shard holds {}, whole holds {}", name_of(shard.dtype),
                                     name_of(whole.dtype)));
  }
  if (whole.elements() != size() * shard.elements()) {
    refuse("all_gather",
           fmt::format("whole has {} elements, {} ranks with {} each make {}", whole.elements(),
                       size(), shard.elements(), size() * shard.elements()));
  }
  if (overlap(shard, whole) && shard.data != whole.data + rank() * shard.bytes()) {
    refuse("all_gather", "shard overlaps whole elsewhere than at this rank's place");
  }
  record_operation((size() - 1) * shard.bytes());
  return do_all_gather(shard, whole, stream);
}

std::unique_ptr<Ticket> Communicator::broadcast(Tensor inout, int root, Stream& stream) {
  check_tensor("broadcast", "the tensor", inout);
  check_rank("broadcast", "root", root, size());
  record_operation((rank() + 1) % size() == root ? 0 : inout.bytes());
  return do_broadcast(inout, root, stream);
}

std::unique_ptr<Ticket> Communicator::shift(ConstTensor out, int to, Tensor in, int from,
                                            Stream& stream) {
  if (to != kNoRank) {
    check_rank("shift", "to", to, size());
    check_tensor("shift", "out", out);
  }
  if (from != kNoRank) {
    check_rank("shift", "from", from, size());
    check_tensor("shift", "in", in);
  }
  if (to != kNoRank && from != kNoRank && overlap(out, in)) {
    refuse("shift", "out and in overlap");
  }
  if ((to == rank()) != (from == rank())) {
    refuse("shift", fmt::format("rank {} sends to {} and receives from {}: to itself on one side",
                                rank(), to, from));
  }
  if (to == rank() && (out.dtype != in.dtype || out.elements() != in.elements())) {
    refuse("shift", fmt::format("out is {} {}, in is {} {}", name_of(out.dtype),
                                to_string(out.shape), name_of(in.dtype), to_string(in.shape)));
  }
  record_operation(to == kNoRank || to == rank() ? 0 : out.bytes());
  if (to == rank()) {
    if (out.bytes() > 0) copy_local(stream, in, out);
    return std::make_unique<DoneTicket>();
  }
  return do_shift(out, to, in, from, stream);
}

void Communicator::copy_local(Stream&, const Tensor& to, const ConstTensor& from) {
  std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes()));
}

double Communicator::sum(double value) { return reduce_one(*this, value, Reduce::kSum); }
int64_t Communicator::min(int64_t value) { return reduce_one(*this, value, Reduce::kMin); }
int64_t Communicator::max(int64_t value) { return reduce_one(*this, value, Reduce::kMax); }

std::string Communicator::broadcast(std::string text, int root) {
  Stream stream;
  Communicator& ranks = host();
  auto length = static_cast<int64_t>(text.size());
  ranks.broadcast(view_of(&length, {1}), root, stream)->wait();
  text.resize(static_cast<size_t>(length));
  if (length > 0) {
    const Tensor bytes{reinterpret_cast<std::byte*>(text.data()), DType::kU8, {length}};
    ranks.broadcast(bytes, root, stream)->wait();
  }
  return text;
}

std::vector<std::string> Communicator::gather(const std::string& text) {
  Stream stream;
  Communicator& ranks = host();
  const auto own = static_cast<int64_t>(text.size());
  std::vector<int64_t> lengths(static_cast<size_t>(size()));
  ranks.all_gather(view_of(&own, {1}), view_of(lengths.data(), {size()}), stream)->wait();
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::string padded = text, all(static_cast<size_t>(size() * longest), '\0');
  padded.resize(static_cast<size_t>(longest));
  if (longest > 0) {
    const Tensor shard{reinterpret_cast<std::byte*>(padded.data()), DType::kU8, {longest}};
    const Tensor whole{reinterpret_cast<std::byte*>(all.data()), DType::kU8, {size(), longest}};
    ranks.all_gather(shard, whole, stream)->wait();
  }
  std::vector<std::string> texts;
  texts.reserve(lengths.size());
  for (int r = 0; r < size(); ++r) {
    texts.push_back(all.substr(static_cast<size_t>(r * longest),
                               static_cast<size_t>(lengths[static_cast<size_t>(r)])));
  }
  return texts;
}

HostPlace Communicator::find_host_place() { return {rank(), size()}; }

HostPlace host_place(Communicator& world) { return world.find_host_place(); }

}  // namespace rwkv
