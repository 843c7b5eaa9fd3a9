// What holds for every transport: streams come whole, readers that stall or vanish harm nobody, stop stops.
#include <fmt/format.h>

#include <filesystem>

#include "core/plugin/options.hpp"
#include "tools/conformance/checks.hpp"
#include "tools/conformance/echo_service.hpp"
#include "tools/conformance/subject.hpp"
#include "tools/conformance/transport_client.hpp"

namespace patchbay::conformance {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// A transport at work over an echoing service.
struct Serving {
  Serving(const CheckContext& context, Findings& findings) : kit(open_kit(context, findings)) {
    if (kit == nullptr) return;
    table = kit->component<moe_transport>().table;
    service = std::make_unique<EchoService>();
    if (auto s = start(); !s.ok())
      findings.fail(s.error().in("start with default options (--set KEY=VALUE gives others)"));
  }
  ~Serving() { stop(0); }

  moe::Status start() {
    auto made = create();
    if (!made.ok()) return made.error();
    instance = *made;
    if (auto s = across([&](moe_message* m) { return table->start(instance, service->abi(), m); }); !s.ok()) {
      table->destroy(std::exchange(instance, nullptr));
      return s;
    }
    const char* at = table->address(instance);
    address = at == nullptr ? "" : at;
    return {};
  }
  moe::Result<moe_transport_instance*> create() const {
    MOE_ASSIGN(const OptionValues options, check_options(kit->header(), kit->given(), kit->header().name));
    moe_transport_instance* made = nullptr;
    MOE_TRY(across(
        [&](moe_message* m) { return table->create(kit->host().get(), options.data(), options.size(), &made, m); }));
    return made;
  }
  void stop(int64_t grace_ms) {
    if (instance == nullptr) return;
    table->stop(instance, grace_ms);
    table->destroy(std::exchange(instance, nullptr));
  }
  // A client; null, with the reason found or skipped, if there is none.
  std::unique_ptr<TransportClient> client(Findings& findings) const {
    auto made = TransportClient::connect(address, kit->options().client);
    if (made.ok()) return std::move(made).value();
    if (made.error().code == MOE_UNIMPLEMENTED) {
      findings.skip(made.error().message);
    } else {
      findings.fail(made.error());
    }
    return nullptr;
  }
  explicit operator bool() const { return instance != nullptr; }

  std::unique_ptr<Kit> kit;
  const moe_transport* table = nullptr;
  std::unique_ptr<EchoService> service;
  moe_transport_instance* instance = nullptr;
  std::string address;
};

bool eventually(const std::function<bool()>& holds, milliseconds patience = std::chrono::seconds(5)) {
  const auto deadline = Clock::now() + patience;
  while (!holds()) {
    if (Clock::now() > deadline) return false;
    std::this_thread::sleep_for(milliseconds(2));
  }
  return true;
}

// Sends a prompt and expects it back.
bool echoes(TransportClient& client, uint64_t request, const std::string& text, Findings& findings, const char* who) {
  if (auto s = client.generate(request, text); !s.ok()) return findings.fail(s.error().in(who)), false;
  auto stream = client.read_stream(request);
  if (!stream.ok()) return findings.fail(stream.error().in(who)), false;
  if (stream->text != text)
    return findings.fail(fmt::format("{}: expected \"{}\" back, got \"{}\"", who, text, stream->text)), false;
  return true;
}

size_t entries(const char* folder) {
  size_t n = 0;
  for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator(folder)) ++n;
  return n;
}

void starts_and_stops(const CheckContext& context, Findings& findings) {
  Serving serving(context, findings);
  if (!serving) return;
  if (serving.address.empty()) findings.fail("address: expected where it listens, got nothing");
  serving.stop(100);
  const size_t threads = entries("/proc/self/task");
  const size_t files = entries("/proc/self/fd");
  for (int i = 0; i < 10; ++i) {
    if (auto s = serving.start(); !s.ok()) return findings.fail(s.error().in(fmt::format("start number {}", i + 2)));
    serving.stop(100);
  }
  if (entries("/proc/self/task") > threads) findings.fail("stop: expected its threads to end, got some that stay");
  if (entries("/proc/self/fd") > files)
    findings.fail("stop: expected its files and sockets to be closed, got some that stay open");
  auto unstarted = serving.create();  // created and destroyed, never started
  if (!unstarted.ok()) return findings.fail(unstarted.error());
  serving.table->destroy(*unstarted);
}

void carries_streams_whole(const CheckContext& context, Findings& findings) {
  Serving serving(context, findings);
  if (!serving) return;
  const auto client = serving.client(findings);
  if (client == nullptr) return;
  if (!echoes(*client, 1, "a stream, character by character", findings, "a client")) return;
  for (uint64_t r = 2; r < 5; ++r) {
    if (!echoes(*client, r, std::string(2000, static_cast<char>('a' + r)), findings, "the same client again")) return;
  }
}

void cancels_reach_the_service(const CheckContext& context, Findings& findings) {
  Serving serving(context, findings);
  if (!serving) return;
  const auto client = serving.client(findings);
  if (client == nullptr) return;
  if (auto s = client->generate(1, EchoService::kEndless); !s.ok()) return findings.fail(s.error());
  auto first = client->receive(std::chrono::seconds(5));
  if (!first.ok() || !*first) return findings.fail("expected a first event, got none");
  if (auto s = client->cancel(1); !s.ok()) return findings.fail(s.error());
  if (!eventually([&] { return serving.service->n_streams() == 0; }))
    findings.fail("cancel: expected it to reach the service, got a stream that runs on");
}

void a_client_that_vanishes_is_closed(const CheckContext& context, Findings& findings) {
  Serving serving(context, findings);
  if (!serving) return;
  const int64_t before = serving.service->n_open();  // it may have a connection of its own, for questions
  {
    const auto client = serving.client(findings);
    if (client == nullptr) return;
    if (auto s = client->generate(1, EchoService::kEndless); !s.ok()) return findings.fail(s.error());
    auto first = client->receive(std::chrono::seconds(5));
    if (!first.ok() || !*first) return findings.fail("expected a first event, got none");
  }
  if (!eventually([&] { return serving.service->n_open() <= before && serving.service->n_streams() == 0; }))
    findings.fail("a client has gone: expected its connection to be closed within 5 s, got one that stays");
  const auto next = serving.client(findings);
  if (next != nullptr) echoes(*next, 1, "the next one", findings, "the next client");
}

void a_reader_that_stalls_blocks_nobody(const CheckContext& context, Findings& findings) {
  constexpr int64_t kMostBytes = int64_t{128} << 20;
  Serving serving(context, findings);
  if (!serving) return;
  auto stalled = serving.client(findings);
  if (stalled == nullptr) return;
  if (auto s = stalled->generate(1, EchoService::kEndless); !s.ok()) return findings.fail(s.error());
  if (!eventually([&] { return serving.service->n_opened() > 0 && serving.service->n_streams() > 0; }))
    return findings.fail("expected the stream to begin, got none");
  const auto ended = [&] { return serving.service->n_refused() > 0 || serving.service->n_streams() == 0; };
  if (!eventually([&] { return ended() || serving.service->delivered_bytes() > kMostBytes; },
                  std::chrono::seconds(20)) ||
      !ended())
    findings.fail(fmt::format(
        "a reader that does not read: expected MOE_RESOURCE_EXHAUSTED of its sink, or its end, got {} MiB taken",
        serving.service->delivered_bytes() >> 20));
  const double slowest = serving.service->slowest_deliver_s();
  if (slowest > 0.5) findings.fail(fmt::format("deliver: expected it not to block, got a call of {:.2f} s", slowest));
  stalled.reset();
}

void garbage_harms_its_sender_only(const CheckContext& context, Findings& findings) {
  Serving serving(context, findings);
  if (!serving) return;
  {
    const auto bad = serving.client(findings);
    if (bad == nullptr) return;
    (void)bad->send(std::string("\xFF\xFE garbage \x00\x01", 14));
    (void)bad->send(std::string(100000, '\xAA'));
    (void)bad->receive(milliseconds(100));
  }
  const auto good = serving.client(findings);
  if (good != nullptr) echoes(*good, 1, "unharmed", findings, "another client");
}

void an_address_in_use_is_an_error(const CheckContext& context, Findings& findings) {
  Serving serving(context, findings);
  if (!serving) return;
  auto second = serving.create();
  if (!second.ok()) return findings.fail(second.error());
  EchoService other;
  const auto status = across([&](moe_message* m) { return serving.table->start(*second, other.abi(), m); });
  if (status.ok()) {
    const std::string address = serving.table->address(*second);
    serving.table->stop(*second, 0);
    if (address == serving.address)
      findings.fail(fmt::format("a second transport at {}: expected an error, got MOE_OK", address));
    if (address != serving.address) findings.skip("it finds another address by itself");
  } else if (status.error().message.empty()) {
    findings.fail("a second transport at the same address: expected a message, got none");
  }
  serving.table->destroy(*second);
}

void stop_keeps_its_grace(const CheckContext& context, Findings& findings) {
  Serving serving(context, findings);
  if (!serving) return;
  auto stalled = serving.client(findings);
  if (stalled == nullptr) return;
  if (auto s = stalled->generate(1, EchoService::kEndless); !s.ok()) return findings.fail(s.error());
  if (!eventually([&] { return serving.service->n_opened() > 0; }))
    return findings.fail("expected a connection, got none");
  serving.table->drain(serving.instance);
  const auto before = Clock::now();
  serving.stop(200);
  const double took = std::chrono::duration<double>(Clock::now() - before).count();
  if (took > 3)
    findings.fail(fmt::format("stop with a grace of 0.2 s: expected it to return soon after, got {:.1f} s", took));
  if (serving.service->n_open() != 0)
    findings.fail("stop: expected every connection to be closed, got some that are open");
}

// Its life up to start: what the rules on options and memory look at.
class TransportSubject final : public Subject {
 public:
  explicit TransportSubject(Kit& kit) : kit_(kit) {}
  ~TransportSubject() override { destroy(); }
  moe::Status create(const std::vector<GivenOption>& given) override {
    destroy();
    MOE_ASSIGN(const OptionValues options, check_options(kit_.header(), given, kit_.header().name));
    return across([&](moe_message* m) {
      return kit_.component<moe_transport>()->create(kit_.host().get(), options.data(), options.size(), &instance_, m);
    });
  }
  void destroy() override {
    if (instance_ != nullptr) kit_.component<moe_transport>()->destroy(std::exchange(instance_, nullptr));
  }
  moe::Status create_only(const std::vector<GivenOption>& given) override {
    MOE_TRY(create(given));
    destroy();
    return {};
  }
  moe::Status set_input(uint32_t) override { return {}; }
  moe::Status refill(uint32_t) override { return {}; }
  moe::Status call() override { return {}; }
  std::vector<uint8_t> output() override { return {}; }
  std::string violations() override { return ""; }
  void retire_memory() override {}
  std::string writes_to_retired() override { return ""; }
  std::vector<std::pair<std::string, std::function<moe_status(moe_message*)>>> calls_with_unknown_bits() override {
    return {{"start", [this](moe_message* m) {
               moe_service service = *service_.abi();
               service.must_understand = 1U << 31;
               const moe_status s = kit_.component<moe_transport>()->start(instance_, &service, m);
               if (s == MOE_OK) kit_.component<moe_transport>()->stop(instance_, 0);
               return s;
             }}};
  }
  std::string wrong_out_structs() override { return ""; }

 private:
  Kit& kit_;
  EchoService service_;
  moe_transport_instance* instance_ = nullptr;
};

}  // namespace

moe::Result<std::unique_ptr<Subject>> make_transport_subject(Kit& kit) {
  return std::unique_ptr<Subject>(std::make_unique<TransportSubject>(kit));
}

const std::vector<Check>& transport_checks() {
  static const std::vector<Check> checks = [] {
    std::vector<Check> all = {
        {"starts_and_stops", "it can be started and stopped again and leaves no thread, file or socket",
         starts_and_stops},
        {"carries_streams_whole", "every event of a stream comes once and in order", carries_streams_whole},
        {"cancels_reach_the_service", "a cancel of a client ends its stream", cancels_reach_the_service},
        {"a_client_that_vanishes_is_closed", "a client that goes away frees its connection",
         a_client_that_vanishes_is_closed},
        {"a_reader_that_stalls_blocks_nobody", "deliver never waits for a reader, and says when there is no room",
         a_reader_that_stalls_blocks_nobody},
        {"garbage_harms_its_sender_only", "bytes that are no message harm nobody else", garbage_harms_its_sender_only},
        {"an_address_in_use_is_an_error", "a second one at the same address is refused", an_address_in_use_is_an_error},
        {"stop_keeps_its_grace", "stop waits no longer than it was told, and closes every connection",
         stop_keeps_its_grace},
    };
    append_lifecycle_checks(all);
    return all;
  }();
  return checks;
}

}  // namespace patchbay::conformance
