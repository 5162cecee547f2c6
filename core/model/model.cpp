#include "core/model/model.h"

#include <algorithm>

#include "core/model/rwkv7_block.h"

namespace rwkv {
namespace {

// Rows come in blocks of 512, the size of the blocks in which products add up weight gradients.
constexpr int64_t kRowBlock = 512;
// At most this many logits and rows at a time: little memory on a host, long products on a device.
struct HeadChunk {
  int64_t logits, rows;
};
constexpr HeadChunk kHostChunk{int64_t{1} << 25, 4 * kRowBlock};
constexpr HeadChunk kDeviceChunk{int64_t{1} << 28, 16 * kRowBlock};

size_t index_of(const std::vector<ParamSpec>& specs, std::string_view name) {
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == name) return i;
  }
  throw Error("internal: the table has no " + std::string(name));
}

// As many whole leaves from row `begin` on as `step` rows hold.
int64_t chunk_end(const Leaves& leaves, int64_t begin, int64_t rows, int64_t step) {
  if (leaves.leaf == 0) return std::min(begin + step, rows);
  int64_t end = begin;
  while (end < rows && leaves.end(end, rows) - begin <= step) end = leaves.end(end, rows);
  return end;
}

Tensor flat(const Tensor& t) {
  const int64_t columns = t.shape[t.shape.rank - 1];
  return t.reshaped({t.elements() / columns, columns});
}

}  // namespace

Model::Model(const ModelConfig& resolved) : config_(resolved), specs_(param_table(resolved)) {
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    blocks_.push_back(std::make_unique<Rwkv7Block>(config_, layer));
    const std::string prefix = "blocks." + std::to_string(layer) + ".";
    const auto first = std::find_if(specs_.begin(), specs_.end(), [&](const ParamSpec& spec) {
      return spec.name.starts_with(prefix);
    });
    first_param_.push_back(static_cast<size_t>(first - specs_.begin()));
  }
  ln0_weight_ = index_of(specs_, "blocks.0.ln0.weight");
  ln0_bias_ = index_of(specs_, "blocks.0.ln0.bias");
  ln_out_weight_ = index_of(specs_, "ln_out.weight");
  ln_out_bias_ = index_of(specs_, "ln_out.bias");
  head_ = index_of(specs_, "head.weight");
}

int64_t Model::head_rows(int64_t leaf, const Memory& memory) const {
  const HeadChunk most = memory.host ? kHostChunk : kDeviceChunk;
  const int64_t fitting = most.logits / config_.vocab / kRowBlock * kRowBlock;
  return std::max(leaf, std::clamp(fitting, kRowBlock, most.rows));
}

size_t Model::end_of(size_t layer) const {
  return layer + 1 < blocks_.size() ? first_param_[layer + 1] : ln_out_weight_;
}

std::span<const Param> Model::block_params(const ParamStore& store, size_t layer) const {
  return store.params(first_param_[layer], end_of(layer) - first_param_[layer]);
}

void Model::sync(const Pass& pass, const ParamStore& store, size_t first, size_t end) {
  if (pass.sync != nullptr) pass.sync->start(store.gradients(first, end), pass.stream);
}

void Model::reset(Workspace& ws) const {
  for (const auto& layer : ws.entering) {
    for (const Tensor& t : layer) zero(*ws.plan_.memory, {}, t);
  }
}

void Model::carry_on(Workspace& ws) const {
  for (size_t l = 0; l < layers(); ++l) {
    for (size_t i = 0; i < ws.leaving[l].size(); ++i) {
      copy(*ws.plan_.memory, {}, ws.entering[l][i], ws.leaving[l][i]);
    }
  }
}

void Model::forward(const Pass& pass, const ParamStore& store, Workspace& ws,
                    ConstTensor tokens) const {
  pass.ops.embedding_forward(pass.stream, {store.master(0), tokens, flat(ws.embedded_)});
  pass.ops.layer_norm_forward(pass.stream, {.x = ws.embedded_,
                                            .weight = store.master(ln0_weight_),
                                            .bias = store.master(ln0_bias_),
                                            .out = ws.x_[0],
                                            .mean = ws.mean0_,
                                            .rstd = ws.rstd0_});
  for (size_t l = 0; l < layers(); ++l) {
    blocks_[l]->forward(pass, block_params(store, l), *ws.saved_[l], {ws.x_[l], ws.v_first_},
                        {ws.x_[l + 1], ws.v_first_}, ws.entering[l], ws.leaving[l]);
  }
}

void Model::loss(const Pass& pass, const ParamStore& store, Workspace& ws, const Batch& batch,
                 Tensor logits) const {
  head(pass, store, ws, batch, 0, false, logits);
}

void Model::norm_out(const Pass& pass, const ParamStore& store, Workspace& ws) const {
  pass.ops.layer_norm_forward(pass.stream, {.x = ws.x_.back(),
                                            .weight = store.master(ln_out_weight_),
                                            .bias = store.master(ln_out_bias_),
                                            .out = ws.normed_,
                                            .mean = ws.mean_,
                                            .rstd = ws.rstd_});
}

void Model::last_logits(const Pass& pass, const ParamStore& store, Workspace& ws,
                        Tensor logits) const {
  norm_out(pass, store, ws);
  const int64_t tokens = ws.plan_.tokens;
  const Tensor rows = flat(ws.normed_);
  for (int64_t b = 0; b < ws.plan_.batch; ++b) {
    const int64_t last = (b + 1) * tokens - 1;
    pass.ops.matmul(pass.stream, {.a = rows.rows(last, last + 1),
                                  .b = store.params(head_, 1)[0].compute,
                                  .c = logits.rows(b, b + 1),
                                  .trans_b = true});
  }
}

// Rows in chunks: logits of one chunk at a time are read once for loss and gradient, and never
// kept.
void Model::head(const Pass& pass, const ParamStore& store, Workspace& ws, const Batch& batch,
                 double l2wrap, bool backward, Tensor logits) const {
  norm_out(pass, store, ws);
  const Param head = store.params(head_, 1)[0];
  const int64_t rows = ws.loss.elements(), step = ws.logits_.shape[0];
  const Tensor normed = flat(ws.normed_), loss = ws.loss.reshaped({rows}),
               best = ws.best.reshaped({rows});
  const ConstTensor targets = batch.targets.reshaped({rows}),
                    weight = batch.weight.reshaped({rows});
  const Leaves all = pass.leaves(ws.plan_.tokens);
  for (int64_t begin = 0, end = 0; begin < rows; begin = end) {
    end = chunk_end(all, begin, rows, step);
    const Leaves leaves{all.tokens, all.leaf, begin % all.tokens};
    const Tensor chunk =
        logits.empty() ? ws.logits_.rows(0, end - begin) : flat(logits).rows(begin, end);
    pass.ops.matmul(pass.stream, {.a = normed.rows(begin, end),
                                  .b = head.compute,
                                  .c = chunk,
                                  .trans_b = true,
                                  .leaves = leaves});
    const Tensor dchunk = backward ? ws.dlogits_.rows(0, end - begin) : Tensor{};
    pass.ops.cross_entropy(pass.stream, {.logits = chunk,
                                         .targets = targets.rows(begin, end),
                                         .weight = weight.rows(begin, end),
                                         .l2wrap = l2wrap,
                                         .grad_scale = pass.loss_scale,
                                         .loss = loss.rows(begin, end),
                                         .best = best.rows(begin, end),
                                         .dlogits = dchunk});
    if (!backward) continue;
    pass.ops.weight_gradient(
        pass.stream,
        {.left = dchunk, .right = normed.rows(begin, end), .to = head.grad, .leaves = leaves});
    pass.ops.matmul(pass.stream, {.a = dchunk,
                                  .b = head.compute,
                                  .c = flat(ws.dnormed_).rows(begin, end),
                                  .leaves = leaves});
  }
}

void Model::forward_backward(const Pass& pass, const ParamStore& store, Workspace& ws,
                             const Batch& batch, double l2wrap) const {
  forward(pass, store, ws, batch.tokens);
  loss_backward(pass, store, ws, batch, l2wrap);
}

void Model::loss_backward(const Pass& pass, const ParamStore& store, Workspace& ws,
                          const Batch& batch, double l2wrap) const {
  head(pass, store, ws, batch, l2wrap, true, {});
  const auto params = store.params(0, store.size());
  pass.ops.layer_norm_backward(pass.stream, {.x = ws.x_.back(),
                                             .weight = params[ln_out_weight_].master,
                                             .bias = params[ln_out_bias_].master,
                                             .mean = ws.mean_,
                                             .rstd = ws.rstd_,
                                             .dout = ws.dnormed_,
                                             .residual = {},
                                             .dx = ws.dx_,
                                             .dweight = params[ln_out_weight_].grad,
                                             .dbias = params[ln_out_bias_].grad,
                                             .leaves = pass.leaves(ws.plan_.tokens)});
  sync(pass, store, ln_out_weight_, store.size());
  zero(*ws.plan_.memory, pass.stream, ws.dv_first_);
  const Flow gradient{ws.dx_, ws.dv_first_};
  Pass again = pass;
  again.exchange = nullptr;  // what entered is still there
  for (size_t l = layers(); l-- > 0;) {
    const Flow in{ws.x_[l], ws.v_first_};
    if (ws.plan_.recompute && l + 1 < layers()) {  // the last block's activations are still there
      blocks_[l]->forward(again, block_params(store, l), *ws.saved_[l], in,
                          {ws.x_[l + 1], ws.v_first_}, ws.entering[l], ws.leaving[l]);
    }
    blocks_[l]->backward(pass, block_params(store, l), *ws.saved_[l], in, gradient, gradient,
                         ws.entering[l], ws.dleaving[l], ws.dentering[l]);
    // The first layer's stand behind the embedding's, which are the last to come.
    if (l > 0) sync(pass, store, first_param_[l], end_of(l));
  }
  pass.ops.layer_norm_backward(pass.stream, {.x = ws.embedded_,
                                             .weight = params[ln0_weight_].master,
                                             .bias = params[ln0_bias_].master,
                                             .mean = ws.mean0_,
                                             .rstd = ws.rstd0_,
                                             .dout = ws.dx_,
                                             .residual = {},
                                             .dx = ws.dx_,
                                             .dweight = params[ln0_weight_].grad,
                                             .dbias = params[ln0_bias_].grad,
                                             .leaves = pass.leaves(ws.plan_.tokens)});
  const int64_t rows = ws.loss.elements();
  pass.ops.embedding_backward(pass.stream,
                              {batch.tokens.reshaped({rows}), flat(ws.dx_), params[0].grad});
  sync(pass, store, 0, end_of(0));
}

}  // namespace rwkv
