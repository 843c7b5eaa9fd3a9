// tokenizer.json to a Tokenizer.
#include <fmt/format.h>

#include "core/model/json/json.hpp"
#include "core/model/tokenizer/impl.hpp"
#include "core/model/tokenizer/json_fields.hpp"
#include "core/model/tokenizer/json_parts.hpp"
#include "core/model/tokenizer/tokenizer.hpp"

namespace patchbay {
namespace {

using fields::json;

moe::Status read_added(const json& item, TokenizerParts& parts) {
  if (!item.is_object()) return moe::invalid(fmt::format("expected an object, got {}", item.type_name()));
  AddedToken t;
  MOE_ASSIGN(const int64_t id, fields::natural(item, "id", std::nullopt));
  MOE_ASSIGN(t.content, fields::text(item, "content"));
  MOE_ASSIGN(t.single_word, fields::boolean(item, "single_word", false));
  MOE_ASSIGN(t.lstrip, fields::boolean(item, "lstrip", false));
  MOE_ASSIGN(t.rstrip, fields::boolean(item, "rstrip", false));
  MOE_ASSIGN(t.special, fields::boolean(item, "special", false));
  MOE_ASSIGN(t.normalized, fields::boolean(item, "normalized", !t.special));
  MOE_TRY(parts.table->add(t.content, id, false));
  t.id = static_cast<int32_t>(id);
  parts.added.push_back(std::move(t));
  return {};
}

moe::Status read_tokens(const json& vocabulary, const json* added, TokenizerParts& parts) {
  parts.table = std::make_unique<TokenTable>(vocabulary.size() + (added == nullptr ? 0 : added->size()));
  for (const auto& [text, v] : vocabulary.items()) {
    auto id = fields::natural(v, "id");
    if (!id.ok()) return id.error().in(fmt::format("model.vocab: \"{}\"", text));
    if (auto done = parts.table->add(text, *id, true); !done.ok()) return done.error().in("model.vocab");
  }
  for (size_t i = 0; added != nullptr && i < added->size(); ++i) {
    if (auto done = read_added((*added)[i], parts); !done.ok())
      return done.error().in(fmt::format("added_tokens[{}]", i));
  }
  return {};
}

moe::Result<BpeOptions> read_bpe_options(const json& model, const TokenTable& table) {
  BpeOptions o;
  MOE_ASSIGN(o.ignore_merges, fields::boolean(model, "ignore_merges", false));
  MOE_ASSIGN(o.byte_fallback, fields::boolean(model, "byte_fallback", false));
  MOE_ASSIGN(o.fuse_unknown, fields::boolean(model, "fuse_unk", false));
  MOE_ASSIGN(o.continuing_prefix, fields::text(model, "continuing_subword_prefix", ""));
  MOE_ASSIGN(o.end_suffix, fields::text(model, "end_of_word_suffix", ""));
  if (const json* dropout = fields::find(model, "dropout"); dropout != nullptr && *dropout != 0) {
    return moe::unimplemented("dropout: expected none, got some: ids would be random");
  }
  if (fields::find(model, "unk_token") != nullptr) {
    MOE_ASSIGN(const std::string unknown, fields::text(model, "unk_token"));
    o.unknown = table.find_in_model(unknown);
    if (!o.unknown)
      return moe::invalid(fmt::format("unk_token: expected a token of the vocabulary, got \"{}\"", unknown));
  }
  return o;
}

moe::Status read_merge(const json& merge, uint32_t rank, Bpe& bpe) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return bpe.add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(), rank);
  }
  if (!merge.is_string())
    return moe::invalid(fmt::format("expected \"a b\" or [\"a\", \"b\"], got {}", merge.type_name()));
  const auto& text = merge.get_ref<const std::string&>();
  if (text.starts_with("#version")) return {};
  MOE_ASSIGN(const auto pair, split_merge(text));
  return bpe.add_merge(pair.first, pair.second, rank);
}

moe::Status read_model(const json& document, TokenizerParts& parts) {
  MOE_ASSIGN(const json* model, fields::object(document, "model"));
  MOE_ASSIGN(const std::string type, fields::text(*model, "type", "BPE"));
  if (type != "BPE") return moe::unimplemented(fmt::format("model.type: expected BPE, got \"{}\"", type));
  MOE_ASSIGN(const json* vocabulary, fields::object(*model, "vocab"));
  MOE_ASSIGN(const json* merges, fields::array(*model, "merges"));
  const json* added = fields::find(document, "added_tokens");
  if (added != nullptr && !added->is_array()) return fields::wrong("added_tokens", "an array", added);
  MOE_TRY(read_tokens(*vocabulary, added, parts));
  auto options = read_bpe_options(*model, *parts.table);
  if (!options.ok()) return options.error().in("model");
  options->bytes = take_bytes(parts.pre_tokenizer, *options);
  parts.bpe = std::make_unique<Bpe>(*parts.table, *options, merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    if (auto done = read_merge((*merges)[i], static_cast<uint32_t>(i), *parts.bpe); !done.ok()) {
      return done.error().in(fmt::format("model.merges[{}]", i));
    }
  }
  return {};
}

moe::Status read_steps(const json& document, TokenizerParts& parts) {
  if (const json* part = fields::find(document, "normalizer")) {
    auto steps = read_normalizer(*part);
    if (!steps.ok()) return steps.error().in("normalizer");
    parts.normalizer = Normalizer(std::move(*steps));
  }
  if (const json* part = fields::find(document, "pre_tokenizer")) {
    auto steps = read_pre_tokenizer(*part);
    if (!steps.ok()) return steps.error().in("pre_tokenizer");
    parts.pre_tokenizer = PreTokenizer(std::move(*steps));
  }
  parts.decoder = {JoinDecoder{}};
  if (const json* part = fields::find(document, "decoder")) {
    auto steps = read_decoder(*part);
    if (!steps.ok()) return steps.error().in("decoder");
    parts.decoder = std::move(*steps);
  }
  return {};
}

}  // namespace

moe::Result<std::pair<std::string_view, std::string_view>> split_merge(std::string_view merge) {
  const size_t space = merge.find(' ');
  if (space == std::string_view::npos || merge.find(' ', space + 1) != std::string_view::npos) {
    return moe::invalid(fmt::format("expected two tokens with a space between, got \"{}\"", merge));
  }
  return std::pair(merge.substr(0, space), merge.substr(space + 1));
}

bool take_bytes(PreTokenizer& pre_tokenizer, const BpeOptions& options) {
  if (pre_tokenizer.steps().empty()) return false;
  auto* last = std::get_if<ByteLevelStep>(&pre_tokenizer.steps().back());
  if (last == nullptr || options.byte_fallback || !options.continuing_prefix.empty() || !options.end_suffix.empty())
    return false;
  last->spell = false;
  return true;
}

moe::Result<std::unique_ptr<Tokenizer>> Tokenizer::from_json(const json& document) {
  if (!document.is_object()) return moe::invalid(fmt::format("expected an object, got {}", document.type_name()));
  TokenizerParts parts;
  MOE_TRY(read_steps(document, parts));
  MOE_TRY(read_model(document, parts));
  if (const json* part = fields::find(document, "post_processor")) {
    auto post = read_post_processor(*part, *parts.table);
    if (!post.ok()) return post.error().in("post_processor");
    parts.post = std::move(*post);
  }
  return TokenizerBuilder::build(std::move(parts));
}

moe::Result<std::unique_ptr<Tokenizer>> Tokenizer::load(const std::filesystem::path& tokenizer_json) {
  MOE_ASSIGN(const json document, parse_json_file(tokenizer_json));
  auto made = from_json(document);
  if (!made.ok()) return made.error().in(tokenizer_json.string());
  return made;
}

}  // namespace patchbay
