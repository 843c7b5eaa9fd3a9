// The real server and clients on the quickstart model.
#include <fmt/format.h>
#include <map>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "server.hpp"
#include "tests/plugins/transports/zmq_client.hpp"

namespace patchbay {
namespace {

using e2e::eventually;
using e2e::expect_one_clear_error;
using e2e::leave_room;
using e2e::run_program;
using e2e::RunningProgram;
using e2e::Server;
using testing::ZmqClient;

constexpr const char* kQuestion = "What is 293 + 85?";

nlohmann::json client_json(const Server& server, std::vector<std::string> more) {
  std::vector<std::string> arguments = {"client", "--server", server.address, "--json"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const auto client = run_program(arguments);
  EXPECT_EQ(client.exit_code, 0) << client.err;
  return nlohmann::json::parse(client.out, nullptr, false);
}

double metric(const Server& server, const char* name) { return client_json(server, {"--metrics"}).value(name, -1.0); }

// A stream that lasts as long as the context, about a thousand tokens; under a sanitizer a quarter of that, which takes
// as long.
v1::ClientMessage long_request(uint64_t number) {
  v1::ClientMessage m;
  m.set_request(number);
  m.mutable_generate()->set_text("Count: ");
  m.mutable_generate()->set_ignore_end(true);
#ifdef PATCHBAY_SANITIZED
  m.mutable_generate()->set_max_tokens(250);
#endif
  (*m.mutable_generate()->mutable_sampling())["temperature"].set_number(1);
  m.mutable_generate()->set_seed(number);
  return m;
}

TEST(Serve, a_client_gets_what_run_prints) {
  const auto alone = run_program({"run", "--model", e2e::quickstart_model(), "--chat", kQuestion, "--json"});
  ASSERT_EQ(alone.exit_code, 0) << alone.err;
  const auto want = nlohmann::json::parse(alone.out);
  const Server server;
  const auto got = client_json(server, {"--chat", kQuestion});
  EXPECT_EQ(got["text"], want["text"]);
  EXPECT_EQ(got["ids"], want["ids"]);
  EXPECT_EQ(got["finish_reason"], "stop");
  EXPECT_NE(got["text"].get<std::string>().find("378"), std::string::npos);
}

TEST(Serve, clients_at_one_time_get_what_each_would_get_alone) {
  const Server server;
  std::vector<std::string> alone;
  for (uint64_t i = 1; i <= 4; ++i) {
    ZmqClient client(server.address);
    client.send(long_request(i));
    alone.push_back(client.stream(i).text);
    EXPECT_GT(alone.back().size(), 200U);
  }
  EXPECT_NE(alone[0], alone[1]);
  std::vector<std::thread> clients;
  for (uint64_t c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      ZmqClient client(server.address);
      const uint64_t i = c % 4 + 1;
      client.send(long_request(i));
      EXPECT_EQ(client.stream(i).text, alone[i - 1]);
    });
  }
  for (auto& c : clients) c.join();
}

TEST(Serve, a_cancel_ends_one_stream_and_leaves_the_other) {
  const Server server;
  ZmqClient client(server.address);
  client.send(long_request(1));
  const std::string whole = client.stream(1).text;
  client.send(long_request(2));
  client.send(long_request(1));
  client.cancel(2);
  std::string text;
  int n_ends = 0;
  while (n_ends < 2) {
    const auto m = client.receive();
    ASSERT_TRUE(m.has_value());
    if (m->request() == 1) text += m->tokens().text();
    if (!m->has_end()) continue;
    ++n_ends;
    EXPECT_EQ(m->end().reason(), m->request() == 2 ? v1::FINISH_REASON_CANCELLED : v1::FINISH_REASON_LENGTH);
  }
  EXPECT_EQ(text, whole);
}

TEST(Serve, interrupting_a_client_cancels_its_request_and_ends_it_with_0) {
  const Server server;
  RunningProgram client({"client", "--server", server.address, "--prompt", "Count: ", "--param", "temperature=1",
                         "--ignore-end", "--max-tokens", "1000"});
  ASSERT_TRUE(eventually([&] { return client.out().find(' ') != std::string::npos; }));
  client.signal(SIGINT);
  const auto ended = client.wait();
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_TRUE(eventually([&] { return metric(server, "patchbay_streams") == 0; }));
}

TEST(Serve, out_of_file_handles_streams_go_on_and_newcomers_come_in_when_there_are_some_again) {
  const Server server;
  ZmqClient streaming(server.address);
  streaming.send(long_request(1));
  const std::string alone = streaming.stream(1).text;
  streaming.send(long_request(1));
  leave_room(server, RLIMIT_NOFILE, 3);
  {
    std::vector<std::unique_ptr<ZmqClient>> many;
    for (int i = 0; i < 20; ++i) {
      many.push_back(std::make_unique<ZmqClient>(server.address));
      v1::ClientMessage question;
      question.mutable_health();
      many.back()->send(question);
    }
    EXPECT_EQ(streaming.stream(1).text, alone);
  }
  EXPECT_EQ(client_json(server, {"--chat", kQuestion})["finish_reason"], "stop");
}

#ifndef PATCHBAY_SANITIZED  // a sanitizer ends a program that gets no memory
TEST(Serve, short_of_memory_streams_go_on_and_it_keeps_serving) {
  const Server server;
  ZmqClient streaming(server.address);
  streaming.send(long_request(1));
  const std::string alone = streaming.stream(1).text;
  streaming.send(long_request(1));
  leave_room(server, RLIMIT_AS, 8 << 20);
  std::vector<std::unique_ptr<ZmqClient>> many;
  for (uint64_t i = 0; i < 60; ++i) {
    many.push_back(std::make_unique<ZmqClient>(server.address));
    v1::ClientMessage large;
    large.set_request(1);
    large.mutable_generate()->set_text(std::string(900000, 'x'));
    many.back()->send(large);
  }
  EXPECT_EQ(streaming.stream(1).text, alone);
  many.clear();
  EXPECT_EQ(client_json(server, {"--chat", kQuestion})["finish_reason"], "stop");
}
#endif

// A disk that is full is where the log goes; nothing of a request does.
TEST(Serve, a_full_disk_under_the_log_harms_no_request) {
  const Server server({"--log-format", "json", "--set", "log.level=\"debug\""}, e2e::quickstart_model(), "/dev/full");
  const auto got = client_json(server, {"--chat", kQuestion});
  EXPECT_NE(got["text"].get<std::string>().find("378"), std::string::npos);
}

TEST(Serve, a_killed_client_frees_its_slot) {
  const Server server({"--set", "engine.batch_size=2"});
  for (int i = 0; i < 4; ++i) {  // more than there are slots
    RunningProgram client(
        {"client", "--server", server.address, "--prompt", "Count: ", "--param", "temperature=1", "--ignore-end"});
    ASSERT_TRUE(eventually([&] { return client.out().find(' ') != std::string::npos; }));
    client.signal(SIGKILL);
    EXPECT_EQ(client.wait().exit_code, 128 + SIGKILL);
  }
  EXPECT_TRUE(eventually([&] { return metric(server, "patchbay_engine_running") == 0; }));
  EXPECT_NE(client_json(server, {"--chat", kQuestion})["text"].get<std::string>().find("378"), std::string::npos);
  EXPECT_EQ(metric(server, "patchbay_connections"), 1);  // the one that asks
}

TEST(Serve, the_first_signal_drains_and_ends_with_0) {
  std::string whole;
  for (const int signal : {SIGTERM, SIGINT}) {
    Server server;
    ZmqClient client(server.address);
    if (whole.empty()) {
      client.send(long_request(1));
      whole = client.stream(1).text;
    }
    client.send(long_request(1));
    auto m = client.receive();
    ASSERT_TRUE(m.has_value());
    ASSERT_TRUE(m->has_tokens());
    server.program.signal(signal);
    uint64_t sequence = 1;
    std::string text = m->tokens().text();
    while (!m->has_end()) {
      m = client.receive();
      ASSERT_TRUE(m.has_value());
      EXPECT_EQ(m->sequence(), ++sequence);
      text += m->tokens().text();
    }
    EXPECT_EQ(m->end().reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(text, whole);
    const auto ended = server.program.wait();
    EXPECT_EQ(ended.exit_code, 0) << ended.err;
  }
}

TEST(Serve, a_second_signal_ends_it_at_once) {
  Server server;
  ZmqClient client(server.address);
  client.send(long_request(1));
  ASSERT_TRUE(client.receive().has_value());
  server.program.signal(SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto began = std::chrono::steady_clock::now();
  server.program.signal(SIGTERM);
  EXPECT_EQ(server.program.wait().exit_code, 128 + SIGTERM);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(5));
}

TEST(Serve, requests_left_after_the_grace_time_end_as_cancelled) {
  Server server({"--grace", "0"});
  ZmqClient client(server.address);
  client.send(long_request(1));
  ASSERT_TRUE(client.receive().has_value());
  server.program.signal(SIGTERM);
  const auto ended = server.program.wait();
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  v1::End end;
  while (const auto m = client.receive(std::chrono::milliseconds(500))) {
    if (m->has_end()) end = m->end();
  }
  EXPECT_EQ(end.reason(), v1::FINISH_REASON_CANCELLED);
}

TEST(Serve, wrong_options_and_addresses_are_one_clear_line_and_1) {
  const auto serve = [](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"serve", "--model", e2e::quickstart_model(), "--quiet"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(arguments);
  };
  expect_one_clear_error(serve({"--listen", "zeromq=tcp://0.0.0.0:*"}), {"allow_remote"});
  expect_one_clear_error(serve({"--set", R"(transport=[{plugin="zeromq",bnd="x"}])"}), {"bnd", "bind"});
  expect_one_clear_error(serve({"--set", R"(transport=[{plugin="zermq"}])"}), {"zermq", "zeromq"});
  const Server server;
  expect_one_clear_error(serve({"--listen", "zeromq=" + server.address}), {server.address});
}

TEST(Serve, a_client_without_a_server_says_so_and_ends_with_1) {
  expect_one_clear_error(run_program({"client", "--server", "tcp://127.0.0.1:1", "--prompt", "x"}),
                         {"tcp://127.0.0.1:1"});
}

TEST(Serve, info_names_model_layers_and_plugins) {
  const Server server;
  const auto info = client_json(server, {"--info"});
  EXPECT_EQ(info["architecture"], "deepseek_v3");
  EXPECT_EQ(info["context"], 1024);
  EXPECT_EQ(info["layers"].size(), 6U);
  EXPECT_EQ(info["layers"][0]["experts"], 0);
  EXPECT_EQ(info["layers"][1]["router"], "grouped");
  EXPECT_EQ(info["layers"][1]["top_k"], 4);
  EXPECT_EQ(client_json(server, {"--health"})["state"], "serving");
}

TEST(Serve, top_shows_speed_and_the_load_of_every_expert) {
  const Server server;
  client_json(server, {"--chat", kQuestion});
  const auto shown = run_program({"top", "--server", server.address, "--looks", "1", "--interval", "0.1"});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_NE(shown.out.find("serving"), std::string::npos) << shown.out;
  EXPECT_NE(shown.out.find("layer   5"), std::string::npos) << shown.out;
  const auto lines = run_program({"top", "--server", server.address, "--looks", "2", "--interval", "0.1", "--json"});
  const auto first = nlohmann::json::parse(lines.out.substr(0, lines.out.find('\n')));
  EXPECT_EQ(first["layers"].size(), 5U);
  EXPECT_GT(first["layers"][0]["tokens"][0], 0);
  EXPECT_EQ(std::count(lines.out.begin(), lines.out.end(), '\n'), 2);
}

TEST(Serve, a_batch_is_answered_line_by_line_and_wrong_lines_are_named) {
  const Server server;
  const e2e::ScratchDir dir;
  std::string lines;
  for (int i = 0; i < 40; ++i) {
    lines += nlohmann::json{{"id", fmt::format("q{}", i)},
                            {"prompt", "Count: "},
                            {"max_tokens", 5 + i % 7},
                            {"seed", i % 3},
                            {"sampling", {{"temperature", 1.5}}}}
                 .dump() +
             "\n";
  }
  lines += "\nplain text\n" + nlohmann::json{{"messages", {{{"role", "user"}, {"content", kQuestion}}}}}.dump() + "\n";
  e2e::write_text(dir / "in.jsonl", lines);
  const auto done = run_program({"client", "--server", server.address, "--batch", dir / "in.jsonl", "--output",
                                 dir / "out.jsonl", "--temperature", "0", "--parallel", "8"});
  EXPECT_EQ(done.exit_code, 0) << done.err;
  EXPECT_NE(done.err.find("42 of 42 requests, 0 failed"), std::string::npos) << done.err;
  std::map<std::string, nlohmann::json> answers;
  std::istringstream out(e2e::read_text(dir / "out.jsonl"));
  for (std::string line; std::getline(out, line);) {
    const auto answer = nlohmann::json::parse(line);
    answers[answer["id"].dump()] = answer;
  }
  ASSERT_EQ(answers.size(), 42U);
  for (int i = 0; i < 40; ++i) {
    const auto& a = answers["\"q" + std::to_string(i) + "\""];
    EXPECT_LE(a["generated_tokens"], 5 + i % 7);
    EXPECT_EQ(a["text"].get<std::string>().substr(0, 4),
              answers["\"q" + std::to_string(i % 3) + "\""]["text"].get<std::string>().substr(0, 4));
  }
  EXPECT_NE(answers["43"]["text"].get<std::string>().find("378"), std::string::npos);
  e2e::write_text(dir / "bad.jsonl", "{\"prompt\": \"x\"}\n{\"prompt\": 7}\n");
  expect_one_clear_error(run_program({"client", "--server", server.address, "--batch", dir / "bad.jsonl"}),
                         {"bad.jsonl: line 2", "prompt"});
}

TEST(Serve, keys_let_in_those_who_have_them) {
  const e2e::ScratchDir dir;
  for (const char* name : {"server", "alice", "eve"}) {
    ASSERT_EQ(run_program({"keys", "new", name, "--dir", dir.path().string()}).exit_code, 0);
  }
  EXPECT_EQ(run_program({"keys", "new", "alice", "--dir", dir.path().string()}).exit_code, 1) << "it is there already";
  e2e::write_text(dir / "patchbay.toml", "[[transport]]\nplugin = \"zeromq\"\nkey_file = \"" + (dir / "server.key") +
                                             "\"\nclients_file = \"" + (dir / "alice.pub") + "\"\n");
  const Server server({"--config", dir / "patchbay.toml"});
  const auto ask = [&](const char* who) {
    return run_program({"client", "--server", server.address, "--health", "--timeout", "1", "--key",
                        dir / (std::string(who) + ".key"), "--server-key", dir / "server.pub"});
  };
  EXPECT_EQ(ask("alice").exit_code, 0) << ask("alice").err;
  EXPECT_EQ(ask("eve").exit_code, 1);
  EXPECT_EQ(run_program({"client", "--server", server.address, "--health", "--timeout", "1"}).exit_code, 1);
}

// The Python example, where Python has pyzmq and protobuf.
TEST(Serve, the_python_example_streams_the_answer) {
  const char* given = std::getenv("PATCHBAY_PYTHON");
  const std::string python = given != nullptr ? given : "python3";
  if (std::system((python + " -c 'import zmq, google.protobuf' 2>/dev/null").c_str()) != 0) {
    GTEST_SKIP() << python << " has no zmq or no google.protobuf";
  }
  const Server server;
  const e2e::ScratchDir dir;
  const std::string generate = "protoc -I " PATCHBAY_SOURCE_DIR "/schemas --python_out " + dir.path().string() +
                               " " PATCHBAY_SOURCE_DIR "/schemas/patchbay.proto";
  ASSERT_EQ(std::system(generate.c_str()), 0);
  const std::string run = "PYTHONPATH=" + dir.path().string() + " PYTHONDONTWRITEBYTECODE=1 " + python +
                          " " PATCHBAY_SOURCE_DIR "/sdk/examples/python/client.py --server " + server.address + " '" +
                          kQuestion + "' > " + (dir / "out") + " 2> " + (dir / "err");
  EXPECT_EQ(std::system(run.c_str()), 0) << e2e::read_text(dir / "err");
  EXPECT_EQ(e2e::read_text(dir / "out"), "378\n");
}

TEST(Serve, a_hangup_reloads_what_may_change_and_says_what_needs_a_restart) {
  const e2e::ScratchDir dir;
  const std::string config = dir / "patchbay.toml";
  const auto write = [&](const char* temperature, const char* more) {
    e2e::write_text(config, std::string("[[sampler]]\nplugin = \"temperature\"\nvalue = ") + temperature +
                                "\n[log]\nformat = \"json\"\n" + more);
  };
  write("0.0", "");
  const Server server({"--config", config});
  const auto text = [&] {
    return client_json(server, {"--prompt", "Count: ", "--ignore-end", "--max-tokens", "30", "--seed", "3"})["text"];
  };
  const auto reload_says = [&](const std::string& what) {
    server.program.signal(SIGHUP);
    return eventually([&] { return server.program.err().find(what) != std::string::npos; });
  };
  const auto greedy = text();
  EXPECT_EQ(text(), greedy);
  write("3.0", "[engine]\nmax_tokens = 20\nbatch_size = 7\n");
  EXPECT_TRUE(reload_says("reloaded: sampler, engine.max_tokens")) << server.program.err();
  EXPECT_NE(server.program.err().find("needs a restart to change: engine"), std::string::npos);
  EXPECT_NE(text(), greedy);
  EXPECT_EQ(client_json(server, {"--prompt", "x", "--ignore-end", "--max-tokens", "25"})["generated_tokens"], 20);
  write("wrong", "");
  EXPECT_TRUE(reload_says("not reloaded: ")) << server.program.err();
  EXPECT_EQ(client_json(server, {"--health"})["state"], "serving");
  std::istringstream lines(server.program.err());
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("note: ", 0) == 0) continue;
    const auto parsed = nlohmann::json::parse(line, nullptr, false);
    EXPECT_TRUE(parsed.contains("level") && parsed.contains("text")) << line;
  }
}

TEST(Serve, drain_is_refused_unless_allowed) {
  {
    const Server server;
    RunningProgram client({"client", "--server", server.address, "--drain"});
    EXPECT_EQ(client.wait().exit_code, 1);
    EXPECT_EQ(client_json(server, {"--health"})["state"], "serving");
  }
  const Server server({"--allow-control"});
  EXPECT_EQ(client_json(server, {"--drain"})["state"], "draining");
  EXPECT_EQ(client_json(server, {"--health"})["state"], "draining");
  RunningProgram client({"client", "--server", server.address, "--prompt", "x"});
  EXPECT_EQ(client.wait().exit_code, 1);
}

}  // namespace
}  // namespace patchbay
