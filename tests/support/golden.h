// The golden files, as doubles.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/config/recipe.h"
#include "core/io/hdf5_file.h"
#include "core/model/model.h"

namespace rwkv::test {

class Golden {
 public:
  explicit Golden(const std::string& name);
  std::vector<double> read(const std::string& dataset) const;
  std::vector<int32_t> tokens(const std::string& dataset) const;
  Shape shape(const std::string& dataset) const { return file_.shape_of(dataset); }
  bool has(const std::string& dataset) const { return file_.has(dataset); }
  nlohmann::json config() const;
  double number(const std::string& attribute) const { return file_.double_attribute(attribute); }
  // The model of `config`.
  ModelConfig model() const;

 private:
  Hdf5File file_;
};

// Fills a store from GROUP/<name>.
void load_params(const Golden&, const std::string& group, ParamStore&);

}  // namespace rwkv::test
