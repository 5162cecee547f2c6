#include "tests/support/golden.h"

#include "tests/support/tensors.h"

namespace rwkv::test {

Golden::Golden(const std::string& name)
    : file_(Hdf5File::open(std::string(RWKV_SOURCE_DIR) + "/tests/golden/" + name)) {}

std::vector<double> Golden::read(const std::string& dataset) const {
  const Shape s = file_.shape_of(dataset);
  std::vector<double> out(static_cast<size_t>(s.elements()));
  file_.read(dataset, view_of(out.data(), s));
  return out;
}

std::vector<int32_t> Golden::tokens(const std::string& dataset) const {
  const Shape s = file_.shape_of(dataset);
  std::vector<int32_t> out(static_cast<size_t>(s.elements()));
  file_.read(dataset, view_of(out.data(), s));
  return out;
}

nlohmann::json Golden::config() const {
  return nlohmann::json::parse(file_.text_attribute("config"));
}

ModelConfig Golden::model() const {
  const nlohmann::json c = config();
  ModelConfig model;
  model.layers = c["n_layer"];
  model.width = c["n_embd"];
  model.head_size = c["head_size"];
  model.ffn_width = c["dim_ffn"];
  model.vocab = c["vocab"];
  model.lora_rank = {c["rank_w"], c["rank_a"], c["rank_v"], c["rank_g"]};
  return model;
}

void load_params(const Golden& golden, const std::string& group, ParamStore& store) {
  for (size_t i = 0; i < store.size(); ++i) {
    assign(store.master(i), golden.read(group + "/" + store.specs()[i].name));
  }
}

}  // namespace rwkv::test
