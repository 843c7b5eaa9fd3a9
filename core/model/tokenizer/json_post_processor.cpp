// post_processor: what it adds around one text. Templates for pairs of texts are not read: a prompt is one.
#include "core/model/tokenizer/json_fields.hpp"
#include "core/model/tokenizer/json_parts.hpp"

namespace patchbay {
namespace {

using fields::json;

constexpr size_t kMaxAdded = 64;

moe::Result<int32_t> known_id(const json& v, const TokenTable& table) {
  MOE_ASSIGN(const int64_t id, fields::natural(v, "id"));
  if (id > INT32_MAX || !table.has(static_cast<int32_t>(id))) {
    return moe::invalid(fmt::format("id: expected one of the vocabulary, got {}", id));
  }
  return static_cast<int32_t>(id);
}

// The ids of template item {"SpecialToken": {"id": name}}: special_tokens[name].ids.
moe::Status read_special(const json& item, const json& part, const TokenTable& table, std::vector<int32_t>& out) {
  MOE_ASSIGN(const json* special, fields::object(item, "SpecialToken"));
  MOE_ASSIGN(const std::string name, fields::text(*special, "id"));
  MOE_ASSIGN(const json* all, fields::object(part, "special_tokens"));
  MOE_ASSIGN(const json* entry, fields::object(*all, name.c_str()));
  MOE_ASSIGN(const json* ids, fields::array(*entry, "ids"));
  for (const json& v : *ids) {
    MOE_ASSIGN(const int32_t id, known_id(v, table));
    out.push_back(id);
  }
  if (out.size() > kMaxAdded)
    return moe::invalid(fmt::format("single: expected at most {} tokens, got more", kMaxAdded));
  return {};
}

moe::Result<PostProcessor> read_template(const json& part, const TokenTable& table) {
  MOE_ASSIGN(const json* single, fields::array(part, "single"));
  PostProcessor post;
  size_t n_texts = 0;
  for (const json& item : *single) {
    if (!item.is_object()) return moe::invalid(fmt::format("single: expected objects, got {}", item.type_name()));
    if (item.contains("SpecialToken")) {
      MOE_TRY(read_special(item, part, table, n_texts == 0 ? post.before : post.after));
      continue;
    }
    MOE_ASSIGN(const json* sequence, fields::object(item, "Sequence"));
    MOE_ASSIGN(const std::string which, fields::text(*sequence, "id"));
    if (which != "A") return moe::invalid(fmt::format("single: expected Sequence A, got {}", which));
    ++n_texts;
  }
  if (n_texts != 1) return moe::invalid(fmt::format("single: expected Sequence A once, got it {} times", n_texts));
  return post;
}

// {"cls": [text, id], "sep": [text, id]}.
moe::Result<PostProcessor> read_bert(const json& part, const TokenTable& table) {
  PostProcessor post;
  for (const char* key : {"cls", "sep"}) {
    MOE_ASSIGN(const json* pair, fields::array(part, key));
    if (pair->size() != 2) return moe::invalid(fmt::format("{}: expected [text, id], got {} items", key, pair->size()));
    MOE_ASSIGN(const int32_t id, known_id((*pair)[1], table));
    (key[0] == 'c' ? post.before : post.after).push_back(id);
  }
  return post;
}

moe::Result<PostProcessor> read_one(const TypedPart& p, const TokenTable& table) {
  if (p.type == "ByteLevel") return PostProcessor{};  // trims offsets, which are not kept
  if (p.type == "TemplateProcessing") return read_template(*p.part, table);
  if (p.type == "BertProcessing" || p.type == "RobertaProcessing") return read_bert(*p.part, table);
  return moe::unimplemented(fmt::format(
      "type: expected ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing or Sequence, got \"{}\"",
      p.type));
}

}  // namespace

moe::Result<PostProcessor> read_post_processor(const json& part, const TokenTable& table) {
  MOE_ASSIGN(const std::vector<TypedPart> flat, flatten_sequence(part, "processors"));
  PostProcessor all;
  for (const TypedPart& p : flat) {
    auto one = read_one(p, table);
    if (!one.ok()) return one.error().in(p.type);
    all.before.insert(all.before.begin(), one->before.begin(), one->before.end());
    all.after.insert(all.after.end(), one->after.begin(), one->after.end());
  }
  return all;
}

}  // namespace patchbay
