// A headless Chromium with one page, driven over the DevTools protocol
// (https://chromedevtools.github.io/devtools-protocol/).
#pragma once

#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/e2e/program.hpp"

namespace patchbay::testing {

class Browser {
 public:
  // The program's path; empty: there is none. PATCHBAY_CHROMIUM names another.
  static std::string program() {
    if (const char* given = std::getenv("PATCHBAY_CHROMIUM")) return given;
    const std::string usual = "/usr/bin/chromium";
    return access(usual.c_str(), X_OK) == 0 ? usual : "";
  }

  Browser() {
    std::vector<std::string> arguments = {program(),
                                          "--headless=new",
                                          "--disable-gpu",
                                          "--disable-dev-shm-usage",
                                          "--no-first-run",
                                          "--hide-scrollbars",
                                          "--disable-background-networking",
                                          "--remote-debugging-port=0",
                                          "--user-data-dir=" + dir_.path().string(),
                                          "about:blank"};
    if (geteuid() == 0) arguments.emplace_back("--no-sandbox");  // Chromium refuses to run as root with it
    std::vector<char*> argv;
    for (auto& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    if (posix_spawn(&process_.pid, argv[0], &actions, nullptr, argv.data(), environ) != 0) process_.pid = 0;
    posix_spawn_file_actions_destroy(&actions);
    connect();
  }
  ~Browser() {
    boost::beast::error_code ec;
    if (socket_.is_open()) call("Browser.close");
    socket_.next_layer().close(ec);
  }
  Browser(const Browser&) = delete;
  Browser& operator=(const Browser&) = delete;

  // The page's size in CSS pixels; a phone is touched, and has two pixels for each.
  void be(int width, int height, bool phone) {
    call("Emulation.setDeviceMetricsOverride",
         {{"width", width}, {"height", height}, {"deviceScaleFactor", phone ? 2 : 1}, {"mobile", phone}});
    call("Emulation.setTouchEmulationEnabled", {{"enabled", phone}});
  }
  void go(const std::string& url) {
    call("Page.navigate", {{"url", url}});
    EXPECT_TRUE(eventually("document.readyState === 'complete' && location.href !== 'about:blank'"));
  }
  // The value of an expression in the page; of a promise, what it comes to.
  nlohmann::json evaluate(const std::string& expression) {
    const nlohmann::json answer =
        call("Runtime.evaluate", {{"expression", expression}, {"returnByValue", true}, {"awaitPromise", true}});
    if (answer.contains("exceptionDetails")) ADD_FAILURE() << expression << ": " << answer["exceptionDetails"].dump();
    return answer.contains("result") ? answer["result"].value("value", nlohmann::json()) : nlohmann::json();
  }
  bool eventually(const std::string& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (evaluate("(async () => Boolean(await (" + condition + ")))()") != true) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return true;
  }
  // Typed as by hand, into what has the focus.
  void type(const std::string& text) { call("Input.insertText", {{"text", text}}); }
  void press_enter() {
    for (const char* kind : {"keyDown", "keyUp"})
      call("Input.dispatchKeyEvent",
           {{"type", kind}, {"key", "Enter"}, {"code", "Enter"}, {"windowsVirtualKeyCode", 13}, {"text", "\r"}});
  }
  // A PNG in base64, for a person to look at.
  std::string screenshot() { return call("Page.captureScreenshot").value("data", ""); }
  // Messages of errors that the page's scripts did not catch or wrote to the console.
  [[nodiscard]] const std::vector<std::string>& problems() const { return problems_; }

 private:
  // Ends with the test, also where the constructor does not come to its end.
  struct Process {
    Process() = default;
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;
    ~Process() {
      if (pid == 0) return;
      for (int i = 0; i < 500; ++i) {
        if (waitpid(pid, nullptr, WNOHANG) != 0) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    pid_t pid = 0;
  };

  void connect() {
    std::string port;
    for (int i = 0; i < 3000 && port.empty(); ++i) {
      std::ifstream in(dir_ / "DevToolsActivePort");
      std::string path;
      if (!(std::getline(in, port) && std::getline(in, path))) port.clear();
      if (port.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    if (port.empty()) return void(ADD_FAILURE() << program() << " gave no port within 30 s");
    namespace asio = boost::asio;
    const asio::ip::tcp::endpoint address(asio::ip::address_v4::loopback(), static_cast<uint16_t>(std::stoi(port)));
    const std::string host = "127.0.0.1:" + port;
    const std::string path = page_path(address, host);
    socket_.next_layer().connect(address);
    socket_.handshake(host, path);
    for (const char* domain : {"Page.enable", "Runtime.enable", "Log.enable"}) call(domain);
  }
  // The path of the one page's socket: asked over plain HTTP.
  std::string page_path(const boost::asio::ip::tcp::endpoint& address, const std::string& host) {
    namespace http = boost::beast::http;
    for (int i = 0; i < 300; ++i) {
      boost::beast::tcp_stream stream(io_);
      stream.connect(address);
      http::request<http::empty_body> question(http::verb::get, "/json/list", 11);
      question.set(http::field::host, host);
      http::write(stream, question);
      boost::beast::flat_buffer bytes;
      http::response<http::string_body> answer;
      http::read(stream, bytes, answer);
      const auto pages = nlohmann::json::parse(answer.body(), nullptr, false);
      for (const auto& page : pages) {
        if (page.is_object() && page.value("type", "") != "page") continue;
        const std::string url = page.is_object() ? page.value("webSocketDebuggerUrl", "") : "";
        if (!url.empty()) return url.substr(url.find('/', 5 + 2 + 1));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    ADD_FAILURE() << program() << " has no page";
    return "/";
  }
  nlohmann::json call(const std::string& method, nlohmann::json parameters = nlohmann::json::object()) {
    const int id = ++n_calls_;
    boost::beast::error_code ec;
    socket_.write(boost::asio::buffer(nlohmann::json{{"id", id}, {"method", method}, {"params", parameters}}.dump()),
                  ec);
    while (!ec) {
      boost::beast::flat_buffer bytes;
      socket_.read(bytes, ec);
      if (ec) break;
      const auto message = nlohmann::json::parse(boost::beast::buffers_to_string(bytes.data()), nullptr, false);
      note(message);
      if (message.value("id", 0) != id) continue;
      if (message.contains("error")) ADD_FAILURE() << method << ": " << message["error"].dump();
      return message.value("result", nlohmann::json::object());
    }
    if (method != "Browser.close") ADD_FAILURE() << method << ": the browser is gone: " << ec.message();
    return nlohmann::json::object();
  }
  void note(const nlohmann::json& message) {
    const std::string method = message.value("method", "");
    const nlohmann::json details = message.value("params", nlohmann::json::object());
    const bool is_error = method == "Runtime.exceptionThrown" ||
                          (method == "Runtime.consoleAPICalled" && details.value("type", "") == "error") ||
                          (method == "Log.entryAdded" && details["entry"].value("level", "") == "error");
    if (is_error) problems_.push_back(details.dump());
  }

  e2e::ScratchDir dir_;
  Process process_;
  int n_calls_ = 0;
  std::vector<std::string> problems_;
  boost::asio::io_context io_;
  boost::beast::websocket::stream<boost::asio::ip::tcp::socket> socket_{io_};
};

}  // namespace patchbay::testing
