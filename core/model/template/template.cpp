#include "core/model/template/template.hpp"

#include <fmt/format.h>

#include <new>

#include "core/model/template/interpreter.hpp"
#include "core/model/template/lexer.hpp"
#include "core/model/template/parser.hpp"
#include "core/model/template/unicode.hpp"

namespace patchbay {
namespace {

constexpr size_t kMaxSourceBytes = size_t{1} << 20;

}  // namespace

moe::Result<Template> Template::parse(std::string source) {
  if (source.size() > kMaxSourceBytes) {
    return moe::exhausted(fmt::format("template: expected at most {} bytes, got {}", kMaxSourceBytes, source.size()));
  }
  if (!jinja::valid_utf8(source)) return moe::invalid("template: expected UTF-8, got other bytes");
  try {
    MOE_ASSIGN(std::vector<jinja::Token> tokens, jinja::tokenize(source));
    MOE_ASSIGN(jinja::Program program, jinja::Parser(std::move(tokens)).run());
    return Template(std::make_shared<const jinja::Program>(std::move(program)));
  } catch (const std::bad_alloc&) {
    return moe::exhausted("template: out of memory while parsing");
  }
}

moe::Result<std::string> Template::render(const nlohmann::ordered_json& context, const TemplateBudget& budget,
                                          const std::optional<std::tm>& now) const {
  try {
    return jinja::Interpreter(*program_, budget, now).run(context);
  } catch (const std::bad_alloc&) {
    return moe::exhausted("template: out of memory while rendering");
  }
}

}  // namespace patchbay
