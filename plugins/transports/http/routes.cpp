// Which path answers what.
#include <fmt/format.h>

#include "errors.hpp"
#include "live.hpp"
#include "moe/sdk/transport_support.hpp"
#include "page.hpp"
#include "prometheus.hpp"
#include "server.hpp"

namespace httpd {

namespace v1 = patchbay::v1;
using boost::beast::http::field;
using boost::beast::http::verb;

namespace {

struct Route {
  std::string_view path;
  verb method;
  bool open;  // without a key
};

constexpr std::string_view kModel = "/v1/models/";  // a prefix
constexpr Route kRoutes[] = {
    {"/", verb::get, true},
    {"/health", verb::get, true},
    {"/metrics", verb::get, false},
    {"/patchbay/info", verb::get, false},
    {"/patchbay/telemetry", verb::get, false},
    {"/v1/models", verb::get, false},
    {kModel, verb::get, false},
    {"/v1/completions", verb::post, false},
    {"/v1/chat/completions", verb::post, false},
};

std::string_view path_of(const Request& request) {
  const std::string_view target(request.target().data(), request.target().size());
  return target.substr(0, target.find('?'));
}

std::string_view value_of(const Request& request, field name) {
  const auto value = request[name];
  return {value.data(), value.size()};
}

const Route* find_route(std::string_view path) {
  for (const Route& r : kRoutes) {
    if (r.path == path || (r.path == kModel && path.size() > kModel.size() && path.starts_with(kModel))) return &r;
  }
  return nullptr;
}

Response refusal(int status, const std::string& message) {
  return {status, "application/json", error_body(status, message), {}};
}

// The page loads nothing from elsewhere, and nobody else's page shows it.
Response page_response() {
  return {200,
          "text/html; charset=utf-8",
          std::string(page()),
          {{"Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src "
            "'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"},
           {"X-Content-Type-Options", "nosniff"},
           {"Referrer-Policy", "no-referrer"},
           {"Cache-Control", "no-cache"}}};
}

bool is_json(std::string_view type) {
  return boost::beast::iequals(boost::beast::string_view(type.data(), type.size()).substr(0, type.find(';')),
                               "application/json");
}

}  // namespace

std::optional<Response> Server::refuse(const Request& header) {
  const std::string_view path = path_of(header);
  const Route* route = find_route(path);
  if (route == nullptr)
    return refusal(404, "path: expected one that this server has, got " + std::string(path.substr(0, 200)));
  const verb method = header.method() == verb::head ? verb::get : header.method();
  if (method != route->method) {
    Response response =
        refusal(405, fmt::format("method: expected {}, got another", std::string(to_string(route->method))));
    response.headers.emplace_back("Allow", std::string(to_string(route->method)));
    return response;
  }
  if (!route->open && !options_.keys.allow(value_of(header, field::authorization))) {
    moe::count("http_requests_unauthorized_total");
    return error_response({MOE_UNAUTHENTICATED, "authorization: expected a key of this server's, got none or another"});
  }
  // A browser sends other types to any server that a page names, without asking.
  if (route->method == verb::post && !is_json(value_of(header, field::content_type))) {
    return refusal(415, "content-type: expected application/json, got another or none");
  }
  return std::nullopt;
}

std::unique_ptr<Exchange> Server::handle(const Request& request, Session& session) {
  const std::string_view path = path_of(request);
  try {
    if (path == "/") {
      session.respond(page_response());
    } else if (path == "/health") {
      session.respond(health());
    } else if (path == "/patchbay/info") {
      session.respond({200, "application/json", dump(info_json(info_)), {}});
    } else if (path == "/patchbay/telemetry") {
      session.respond(telemetry());
    } else if (path == "/metrics") {
      session.respond(metrics());
    } else if (path == "/v1/models") {
      session.respond(list_models());
    } else if (path.starts_with(kModel)) {
      session.respond(model(path.substr(kModel.size())));
    } else {
      auto exchange = complete(request, path == "/v1/chat/completions", session);
      if (exchange.ok()) return std::move(exchange).value();
      session.respond(error_response(exchange.error()));
    }
  } catch (const std::bad_alloc&) {
    session.respond(error_response({MOE_UNAVAILABLE, "server: expected memory for the request, got none"}));
  }
  return nullptr;
}

moe::Result<std::unique_ptr<Exchange>> Server::complete(const Request& request, bool chat, Session& session) {
  MOE_ASSIGN(const Json body, parse_json(request.body()));
  MOE_ASSIGN(const CompletionRequest wanted, read_completion(body, chat, info_));
  MOE_ASSIGN(auto completion, Completion::start(wanted, info_.model(), service_, io_, session, options_.queue));
  return std::unique_ptr<Exchange>(std::move(completion));
}

namespace {

Json describe(const v1::Info& info, int64_t created) {
  return {{"id", info.model()},
          {"object", "model"},
          {"created", created},
          {"owned_by", "patchbay"},
          {"max_model_len", info.context()}};
}

}  // namespace

Response Server::list_models() const {
  return {
      200, "application/json", dump({{"object", "list"}, {"data", Json::array({describe(info_, started_s_)})}}), {}};
}

Response Server::model(std::string_view name) const {
  if (name == info_.model()) return {200, "application/json", dump(describe(info_, started_s_)), {}};
  return error_response(moe::not_found("model: expected \"" + info_.model() + "\", got \"" + std::string(name) + "\""));
}

Response Server::health() {
  v1::ClientMessage question;
  question.mutable_health();
  const auto answer = query_.ask(question);
  if (!answer.ok()) return error_response(answer.error());
  const Json health = health_json(answer->health(), closing_);
  return {health["healthy"] ? 200 : 503, "application/json", dump(health), {{"Cache-Control", "no-store"}}};
}

Response Server::telemetry() {
  v1::ClientMessage question;
  question.mutable_telemetry();
  const auto answer = query_.ask(question);
  if (!answer.ok()) return error_response(answer.error());
  return {200, "application/json", dump(telemetry_json(answer->telemetry())), {{"Cache-Control", "no-store"}}};
}

Response Server::metrics() {
  v1::ClientMessage question;
  question.mutable_metrics();
  const auto answer = query_.ask(question);
  if (!answer.ok()) return error_response(answer.error());
  return {200, "text/plain; version=0.0.4; charset=utf-8", prometheus_text(answer->metrics()), {}};
}

}  // namespace httpd
