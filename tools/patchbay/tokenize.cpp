// patchbay tokenize: text to ids and back, with the tokenizer's files alone.
#include <fmt/format.h>

#include <iostream>

#include "core/model/files/model_files.hpp"
#include "core/model/json/json.hpp"
#include "tools/patchbay/commands.hpp"
#include "tools/patchbay/session.hpp"

namespace patchbay {
namespace {

struct TokenizeFlags {
  std::string model;
  bool decode = false;
  bool json = false;
  bool special = false;
  std::vector<std::string> sets;
};

std::string dump(const nlohmann::json& doc) { return doc.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); }

moe::Result<std::vector<int32_t>> ids_of(const nlohmann::json& list, size_t n_vocab) {
  if (!list.is_array()) return moe::invalid("ids: expected an array of token ids, got something else");
  std::vector<int32_t> ids;
  for (const auto& item : list) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0 || item.get<int64_t>() >= static_cast<int64_t>(n_vocab)) {
      return moe::invalid(fmt::format("ids: expected ids in [0, {}), got {}", n_vocab, item.dump()));
    }
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

moe::Result<std::string> encode_line(const Tokenizer& tokenizer, const std::string& line, const TokenizeFlags& flags) {
  std::string text = line;
  if (flags.json) {
    MOE_ASSIGN(const nlohmann::json doc, parse_json(line));
    if (!doc.is_object() || !doc.contains("text") || !doc["text"].is_string()) return moe::invalid("expected {\"text\": \"...\"}, got something else");
    text = doc["text"].get<std::string>();
  }
  MOE_ASSIGN(const auto ids, tokenizer.encode(text, flags.special));
  if (flags.json) return dump(nlohmann::json{{"ids", ids}});
  return fmt::format("{}", fmt::join(ids, " "));
}

moe::Result<std::string> decode_line(const Tokenizer& tokenizer, const std::string& line, const TokenizeFlags& flags) {
  nlohmann::json list = nlohmann::json::array();
  if (flags.json) {
    MOE_ASSIGN(const nlohmann::json doc, parse_json(line));
    if (!doc.is_object() || !doc.contains("ids")) return moe::invalid("expected {\"ids\": [...]}, got something else");
    list = doc["ids"];
  } else {
    std::istringstream in(line);
    std::string word;
    while (in >> word) {
      MOE_ASSIGN(const nlohmann::json number, parse_json(word));
      list.push_back(number);
    }
  }
  MOE_ASSIGN(const auto ids, ids_of(list, tokenizer.vocab_size()));
  const std::string text = tokenizer.decode(ids, false);
  if (flags.json) return dump(nlohmann::json{{"text", text}});
  return text;
}

void tokenize(const TokenizeFlags& flags) {
  CommonFlags common;
  common.sets = flags.sets;
  common.model = flags.model;
  const Settings settings = value_or_fail(settings_of(common));
  if (settings.model.path.empty()) fail(moe::invalid("--model: expected a model with a tokenizer, got none"));
  const auto files = value_or_fail(ModelFiles::open(settings.model.path));
  const auto tokenizer = value_or_fail(files->tokenizer());
  if (tokenizer == nullptr) fail(moe::not_found(fmt::format("{}: expected a tokenizer, got none", settings.model.path.string())));
  std::ios::sync_with_stdio(false);
  std::string line;
  int64_t n_line = 0;
  while (std::getline(std::cin, line)) {
    ++n_line;
    const auto out = flags.decode ? decode_line(*tokenizer, line, flags) : encode_line(*tokenizer, line, flags);
    if (!out.ok()) fail(out.error().in(fmt::format("input line {}", n_line)));
    std::cout << *out << '\n';
  }
  std::cout.flush();
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command = app.add_subcommand("tokenize", "Turn lines of text into token ids, or back; standard input to standard output");
  command->add_option("--model", flags->model, "directory with tokenizer.json, or .gguf file")->type_name("PATH");
  command->add_option("--set", flags->sets, "override one setting, as TOML")->type_name("KEY=VALUE")->allow_extra_args(false);
  command->add_flag("--decode", flags->decode, "from ids to text");
  command->add_flag("--json", flags->json, "lines of JSON: {\"text\"} in and {\"ids\"} out, or the reverse");
  command->add_flag("--special", flags->special, "add the special tokens that the model expects around a text");
  command->callback([flags] { tokenize(*flags); });
}

}  // namespace patchbay
