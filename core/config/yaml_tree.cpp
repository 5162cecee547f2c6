#include "core/config/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/config/utf8.h"

namespace rwkv {
namespace {

// Where messages point to.
struct TextPlace {
  std::string_view where;
  bool with_position;

  [[noreturn]] void fail(int line, int column, std::string_view what) const {
    if (!with_position) throw InputError(fmt::format("{}: {}", printable(where, 200), what));
    throw InputError(fmt::format("{}:{}:{}: {}", printable(where, 200), line, column, what));
  }
};

// Refuses bytes that the parser would take in silence, and tabs as indentation, for which its
// message is hard to understand.
void check_bytes(std::string_view text, const TextPlace& place) {
  int line = 1, column = 1;
  bool indentation = true;
  for (std::string_view rest = text; !rest.empty();) {
    const auto c = static_cast<unsigned char>(rest[0]);
    const size_t length = utf8_length(rest);
    if (length == 0) place.fail(line, column, "this byte is not UTF-8");
    if (c == '\t' && indentation) place.fail(line, column, "a tab: indent with spaces");
    const bool line_end = c == '\n' || (c == '\r' && rest.substr(0, 2) == "\r\n");
    if (is_control(c) && c != '\t' && !line_end) {
      place.fail(line, column, "a control character");
    }
    indentation = c == '\n' || (indentation && c == ' ');
    column = c == '\n' ? 1 : column + static_cast<int>(length);
    line += c == '\n' ? 1 : 0;
    rest.remove_prefix(length);
  }
}

// Whether the quoted scalar at the beginning of `text` is closed; the parser takes the end of the
// file for a quote.
bool is_closed(std::string_view text) {
  const char quote = text[0];
  for (size_t i = 1; i < text.size(); ++i) {
    if (quote == '"' && text[i] == '\\') {
      ++i;
    } else if (text[i] == quote) {
      const bool doubled = quote == '\'' && i + 1 < text.size() && text[i + 1] == quote;
      if (!doubled) return true;
      ++i;
    }
  }
  return false;
}

// Builds the tree from the parser's events; whatever is refused is refused at once.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, const TextPlace& place) : text_(text), place_(place) {}

  YamlNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0) fail(mark, "a second document: a recipe is one");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(mark, YamlNode::Kind::kNull, "?", anchor);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { fail(mark, kNoAnchors); }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode& node = add(mark, YamlNode::Kind::kScalar, tag, anchor);
    node.text = value;
    node.quoted = tag == "!";
    const auto position = static_cast<size_t>(mark.pos);
    if (!node.quoted || position >= text_.size()) return;
    const char first = text_[position];
    if (first == '!') fail(mark, kNoTags);
    if ((first == '"' || first == '\'') && !is_closed(text_.substr(position))) {
      fail(mark, "the quote that opens here is not closed");
    }
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(add(mark, YamlNode::Kind::kList, tag, anchor), mark);
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(add(mark, YamlNode::Kind::kMap, tag, anchor), mark);
  }
  void OnMapEnd() override { close(); }

 private:
  static constexpr std::string_view kNoAnchors =
      "anchors and aliases are not allowed: write the value out";
  static constexpr std::string_view kNoTags = "tags are not allowed: write the plain value";

  [[noreturn]] void fail(const YAML::Mark& mark, std::string_view what) const {
    place_.fail(mark.line + 1, mark.column + 1, what);
  }

  YamlNode& add(const YAML::Mark& mark, YamlNode::Kind kind, const std::string& tag,
                YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) fail(mark, kNoAnchors);
    if (!tag.empty() && tag != "?" && tag != "!") fail(mark, kNoTags);
    if (++nodes_ > kMaxYamlNodes) fail(mark, fmt::format("more than {} values", kMaxYamlNodes));
    YamlNode* node = &root_;
    if (!open_.empty()) {
      YamlNode& parent = *open_.back();
      const bool is_key = parent.kind == YamlNode::Kind::kMap && parent.items.size() % 2 == 0;
      if (is_key && kind != YamlNode::Kind::kScalar) {
        fail(mark, "a key must be a plain name (or a bracket is not closed)");
      }
      node = &parent.items.emplace_back();
    }
    node->kind = kind;
    node->line = mark.line + 1;
    node->column = mark.column + 1;
    return *node;
  }

  // Pointers to open nodes stay valid: only the innermost one gains items.
  void open(YamlNode& node, const YAML::Mark& mark) {
    if (open_.size() >= kMaxYamlDepth) fail(mark, "nested too deeply");
    open_.push_back(&node);
  }
  void close() { open_.pop_back(); }

  std::string_view text_;
  const TextPlace& place_;
  YamlNode root_;
  std::vector<YamlNode*> open_;
  int nodes_ = 0, documents_ = 0;
};

}  // namespace

YamlNode parse_yaml(std::string_view text, std::string_view where, bool with_position) {
  const TextPlace place{where, with_position};
  if (text.size() > kMaxRecipeBytes) {
    place.fail(1, 1,
               fmt::format("{} bytes: a recipe has at most {}", text.size(), kMaxRecipeBytes));
  }
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // some editors' byte order mark
  check_bytes(text, place);
  TreeBuilder builder(text, place);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& e) {
    const bool unknown = e.mark.is_null();
    place.fail(unknown ? 1 : e.mark.line + 1, unknown ? 1 : e.mark.column + 1,
               "not valid YAML: " + printable(e.msg, 200));
  }
  return builder.take();
}

}  // namespace rwkv
