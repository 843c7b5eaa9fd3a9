// Chat formats of real models against what transformers makes of the same messages.
#include "core/model/template/chat.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iomanip>
#include <sstream>

namespace patchbay {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

const fs::path kData = fs::path(PATCHBAY_SOURCE_DIR) / "tests/data/templates";

ordered_json read_json(const fs::path& path) {
  std::ifstream in(path);
  return ordered_json::parse(in);
}

std::tm time_of(const std::string& iso) {
  std::tm t{};
  std::istringstream in(iso);
  in >> std::get_time(&t, "%Y-%m-%dT%H:%M:%S");
  std::mktime(&t);
  return t;
}

// A folder of its own for each test, removed at the end.
class ModelFolder {
 public:
  ModelFolder() {
    std::string name = (fs::temp_directory_path() / "patchbay-chat-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~ModelFolder() { fs::remove_all(path_); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(path_ / name) << text; }
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

const ordered_json kHi = {{{"role", "user"}, {"content", "Hi"}}};

class RealChat : public testing::TestWithParam<std::string> {};

TEST_P(RealChat, gives_the_text_or_error_of_transformers) {
  const auto chat = ChatFormat::load(kData / GetParam());
  ASSERT_TRUE(chat.ok()) << chat.error().message;
  const ordered_json cases = read_json(kData / (GetParam() + ".chat.json"));
  ASSERT_GE(cases.size(), 14u);
  for (const ordered_json& c : cases) {
    ordered_json kwargs = c["input"];
    const ordered_json messages = kwargs["messages"];
    const ordered_json tools = kwargs.value("tools", ordered_json());
    const bool prompt = kwargs["add_generation_prompt"];
    for (const char* key : {"messages", "tools", "add_generation_prompt"}) kwargs.erase(key);
    const auto text = chat->render(messages, tools, prompt, kwargs, {}, time_of(c["strftime_now"]));
    ASSERT_EQ(text.ok(), c.contains("text")) << c["case"] << (text.ok() ? *text : text.error().message);
    if (text.ok()) {
      EXPECT_EQ(*text, c["text"].get<std::string>()) << c["case"];
    } else {
      EXPECT_NE(text.error().message.find(c["error"].get<std::string>()), std::string::npos) << text.error().message;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(models, RealChat, testing::Values("qwen3", "deepseek_v3"),
                         [](const auto& p) { return p.param; });

TEST(ChatFormat, runs_the_quickstart_model) {
  const auto chat = ChatFormat::load(fs::path(PATCHBAY_SOURCE_DIR) / "configs/quickstart/model");
  ASSERT_TRUE(chat.ok()) << chat.error().message;
  const ordered_json messages = {{{"role", "user"}, {"content", "3+4"}},
                                 {{"role", "assistant"}, {"content", "<think>\nso\n</think> 7 "}},
                                 {{"role", "user"}, {"content", "5"}}};
  const auto text = chat->render(messages);
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_EQ(*text, chat->special_tokens().at("bos") +
                       "<｜User｜>3+4<｜Assistant｜>7<｜end▁of▁sentence｜><｜User｜>5<｜Assistant｜><think>\n");
}

TEST(ChatFormat, reads_the_default_of_a_list_and_tokens_that_are_objects) {
  const ModelFolder model;
  model.write("tokenizer_config.json", R"({"bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": "</s>",
      "unk_token": null, "chat_template": [{"name": "tool_use", "template": "no"},
      {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ unk_token }}"}]})");
  const auto chat = ChatFormat::load(model.path());
  ASSERT_TRUE(chat.ok()) << chat.error().message;
  EXPECT_EQ(*chat->render(kHi), "<s>Hi</s>");
}

TEST(ChatFormat, prefers_the_jinja_file_and_fills_tokens_from_the_map) {
  const ModelFolder model;
  model.write("tokenizer_config.json", R"({"chat_template": "old", "bos_token": "<s>"})");
  model.write("special_tokens_map.json", R"({"bos_token": "other", "eos_token": {"content": "</s>"}})");
  model.write("chat_template.jinja", "new {{ bos_token }}{{ eos_token }}\n");
  const auto chat = ChatFormat::load(model.path());
  ASSERT_TRUE(chat.ok()) << chat.error().message;
  EXPECT_EQ(*chat->render(kHi), "new <s></s>");
}

TEST(ChatFormat, says_what_is_wrong_with_a_model) {
  const ModelFolder model;
  EXPECT_EQ(ChatFormat::load(model.path()).error().code, MOE_NOT_FOUND);
  model.write("tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_NE(ChatFormat::load(model.path()).error().message.find("expected a string or a list"), std::string::npos);
  model.write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": ""}]})");
  EXPECT_NE(ChatFormat::load(model.path()).error().message.find("\"default\""), std::string::npos);
  model.write("tokenizer_config.json", R"({"bos_token": [1], "chat_template": ""})");
  EXPECT_NE(ChatFormat::load(model.path()).error().message.find("bos_token"), std::string::npos);
  model.write("chat_template.jinja", "a\n{{ (");
  model.write("tokenizer_config.json", "{}");
  const std::string message = ChatFormat::load(model.path()).error().message;
  EXPECT_NE(message.find("chat_template.jinja: chat template: line 2: "), std::string::npos) << message;
}

TEST(ChatFormat, lets_arguments_be_variables_and_keeps_the_order_of_keys) {
  const auto chat = ChatFormat::from_source("{{ tools | tojson }} {{ enable_thinking }} {{ bos_token }}{{ eos_token }}",
                                            "<s>", "</s>");
  ASSERT_TRUE(chat.ok());
  const ordered_json tools = {{{"z", 1}, {"a", {{"y", nullptr}, {"b", "<é>"}}}}};
  EXPECT_EQ(*chat->render(kHi, tools, true, {{"enable_thinking", false}, {"bos_token", "own"}}),
            R"([{"z": 1, "a": {"y": null, "b": "<é>"}}] False own</s>)");
}

TEST(ChatFormat, refuses_arguments_of_other_types) {
  const auto chat = ChatFormat::from_source("x", "", "");
  EXPECT_FALSE(chat->render("text").ok());
  EXPECT_FALSE(chat->render(kHi, "tools").ok());
  EXPECT_FALSE(chat->render(kHi, nullptr, true, kHi).ok());
}

TEST(ChatFormat, tells_the_message_that_the_template_raises) {
  const auto chat =
      ChatFormat::from_source("{%- for m in messages %}\n{{ raise_exception('no ' ~ m.role) }}{% endfor %}", "", "");
  const auto text = chat->render(kHi);
  ASSERT_FALSE(text.ok());
  EXPECT_EQ(text.error().message, "chat template: line 2: no user");
}

TEST(ChatFormat, shows_the_given_time) {
  const auto chat = ChatFormat::from_source("{{ strftime_now('%d %b %Y') }}|{{ strftime_now('') }}", "", "");
  EXPECT_EQ(*chat->render(kHi, nullptr, true, nullptr, {}, time_of("2026-01-02T03:04:05")), "02 Jan 2026|");
}

}  // namespace
}  // namespace patchbay
