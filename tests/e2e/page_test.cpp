// The page at /, in a real browser. With PATCHBAY_SCREENSHOTS=DIR it leaves pictures there.
#include "server.hpp"
#include "tests/support/browser.hpp"

namespace patchbay {
namespace {

using e2e::kWithHttp;
using e2e::Server;
using testing::Browser;

class Page : public ::testing::Test {
 protected:
  void SetUp() override {
    if (Browser::program().empty()) GTEST_SKIP() << "no chromium";
  }
  // Asks as a person does; the answer's last element is the note with its figures.
  static void ask(Browser& browser, const std::string& question) {
    browser.evaluate("document.getElementById('input').focus()");
    browser.type(question);
    browser.press_enter();
  }
  static constexpr const char* kAnswered =
      "document.querySelector('.turn:last-child .note')?.textContent.includes('tokens')";

  // For a person to look at; base64 is what the browser gives, so `base64 -d` makes the picture.
  static void picture(Browser& browser, const std::string& name) {
    const char* folder = std::getenv("PATCHBAY_SCREENSHOTS");
    if (folder != nullptr)
      e2e::write_text(std::filesystem::path(folder) / (name + ".png.base64"), browser.screenshot());
  }
};

// Colours of a canvas, as many as it has different ones.
constexpr const char* kColours = R"js((canvas) => {
  const bytes = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(Array.from({ length: bytes.length / 4 }, (_, i) => bytes.slice(4 * i, 4 * i + 4).join())).size;
})js";

TEST_F(Page, a_question_is_answered_as_it_streams_with_the_thinking_folded) {
  const Server server(kWithHttp);
  Browser browser;
  browser.be(1280, 800, false);
  browser.go(server.address_of("http"));
  ASSERT_TRUE(browser.eventually("document.getElementById('state').textContent === 'serving'"));
  browser.evaluate(
      "window.lengths = new Set(); new MutationObserver(() => lengths.add("
      "document.querySelector('.thinking div')?.textContent.length ?? 0))"
      ".observe(document.getElementById('log'), { childList: true, subtree: true, characterData: true })");
  ask(browser, "What is 293 + 85?");
  ASSERT_TRUE(browser.eventually(kAnswered));
  EXPECT_EQ(browser.evaluate("document.querySelector('.mine').textContent"), "What is 293 + 85?");
  EXPECT_EQ(browser.evaluate("document.querySelector('.answer').textContent"), "378");
  EXPECT_EQ(browser.evaluate("document.querySelector('.thinking').open"), false);
  EXPECT_GT(browser.evaluate("document.querySelector('.thinking div').textContent.length"), 20);
  EXPECT_GT(browser.evaluate("lengths.size"), 5) << "it came in one piece";
  picture(browser, "chat");
  ask(browser, "What is 5 + 6?");  // the chat so far goes along
  ASSERT_TRUE(browser.eventually("document.querySelectorAll('.answer').length === 2"));
  ASSERT_TRUE(browser.eventually(kAnswered));
  EXPECT_EQ(browser.evaluate("document.getElementById('send').textContent"), "Send");
  EXPECT_TRUE(browser.problems().empty()) << browser.problems()[0];
}

TEST_F(Page, stop_ends_a_stream_and_frees_its_slot) {
  const Server server({"--listen", "http=127.0.0.1:0", "--set", "engine.batch_size=1"});
  Browser browser;
  browser.be(1280, 800, false);
  browser.go(server.address_of("http"));
  ASSERT_TRUE(browser.eventually("document.getElementById('state').textContent === 'serving'"));
  // Without an end: the model's own end of text is not taken.
  browser.evaluate(
      "(() => { const own = fetch; window.fetch = (path, options) => own(path, options?.body ? "
      "{ ...options, body: JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true }) } : options); })()");
  ask(browser, "What is 293 + 85?");
  ASSERT_TRUE(browser.eventually("document.querySelector('.thinking div')?.textContent.length > 0"));
  EXPECT_EQ(browser.evaluate("document.getElementById('send').textContent"), "Stop");
  browser.evaluate("document.getElementById('send').click()");
  ASSERT_TRUE(browser.eventually("document.querySelector('.note').textContent === 'Stopped.'"));
  EXPECT_TRUE(browser.eventually("fetch('/health').then(r => r.json()).then(h => h.running === 0)"));
}

TEST_F(Page, it_shows_the_load_of_every_expert_and_what_runs_in_each_layer) {
  const Server server({"--listen", "http=127.0.0.1:0", "--set", "layer=[{match=\"3\",router={plugin=\"topk\",k=2}}]"});
  Browser browser;
  browser.be(1280, 800, false);
  browser.go(server.address_of("http"));
  ASSERT_TRUE(browser.eventually("document.querySelectorAll('.layer canvas').length === 5"));
  browser.evaluate(
      "window.most = 0; new MutationObserver(() => { most = Math.max(most, "
      "Number(document.getElementById('f-decode').textContent) || 0); })"
      ".observe(document.getElementById('f-decode'), { childList: true })");
  ask(browser, "Compute 73 * 56.");
  ASSERT_TRUE(browser.eventually(kAnswered));
  ASSERT_TRUE(
      browser.eventually("[...document.querySelectorAll('.layer .hot')].every((e) => e.textContent.endsWith('×'))"));
  EXPECT_TRUE(browser.eventually("most > 0")) << "tokens/s stayed at 0";
  EXPECT_GT(browser.evaluate("Math.min(...[...document.querySelectorAll('.layer canvas')].map(" +
                             std::string(kColours) + "))"),
            3);
  const std::string parts =
      browser.evaluate("[...document.querySelectorAll('.parts')].map((e) => e.textContent).join('|')");
  EXPECT_EQ(parts, "grouped k=4 · swiglu · cpu|topk k=2 · swiglu · cpu|grouped k=4 · swiglu · cpu");
  EXPECT_EQ(browser.evaluate("document.getElementById('f-waiting').textContent"), "0");
  picture(browser, "live");
  EXPECT_TRUE(browser.problems().empty()) << browser.problems()[0];
}

TEST_F(Page, on_a_phone_nothing_is_wider_than_the_screen_and_both_views_work) {
  const Server server(kWithHttp);
  Browser browser;
  browser.be(390, 844, true);
  browser.go(server.address_of("http"));
  constexpr const char* kFits = "document.documentElement.scrollWidth <= innerWidth && innerWidth === 390";
  ASSERT_TRUE(browser.eventually("document.querySelectorAll('.layer canvas').length === 5"));
  EXPECT_EQ(browser.evaluate(kFits), true);
  EXPECT_EQ(browser.evaluate("getComputedStyle(document.querySelector('aside')).display"), "none");
  EXPECT_GE(browser.evaluate("document.getElementById('send').clientHeight"), 40);
  EXPECT_GE(browser.evaluate("parseFloat(getComputedStyle(document.getElementById('input')).fontSize)"), 16)
      << "a phone would zoom in on the field";
  ask(browser, "What is 293 + 85?");
  ASSERT_TRUE(browser.eventually(kAnswered));
  EXPECT_EQ(browser.evaluate(kFits), true);
  picture(browser, "phone_chat");
  browser.evaluate("document.querySelector('nav button[data-view=live]').click()");
  EXPECT_EQ(browser.evaluate("getComputedStyle(document.querySelector('main')).display"), "none");
  EXPECT_TRUE(browser.eventually("document.querySelector('.layer canvas').width > 300"));
  EXPECT_EQ(browser.evaluate(kFits), true);
  picture(browser, "phone_live");
}

TEST_F(Page, it_says_when_the_server_is_gone_and_asks_for_a_key_where_one_is_due) {
  Browser browser;
  browser.be(1280, 800, false);
  {
    Server server(kWithHttp);
    browser.go(server.address_of("http"));
    ASSERT_TRUE(browser.eventually("document.getElementById('state').textContent === 'serving'"));
    server.program.signal(SIGTERM);
    EXPECT_EQ(server.program.wait().exit_code, 0);
  }
  EXPECT_TRUE(browser.eventually("document.getElementById('state').textContent === 'no answer'"));
  const e2e::ScratchDir dir;
  e2e::write_text(dir / "keys", "open-sesame-0123456789\n");
  std::filesystem::permissions(dir / "keys", std::filesystem::perms::owner_read);
  const Server server(
      {"--listen", "http=127.0.0.1:0", "--set", "transport=[{plugin=\"http\",api_key_file=\"" + dir / "keys" + "\"}]"});
  browser.go(server.address_of("http"));
  ASSERT_TRUE(browser.eventually("document.getElementById('ask').open"));
  browser.evaluate(
      "document.getElementById('key').value = 'open-sesame-0123456789';"
      "document.querySelector('#ask button').click()");
  EXPECT_TRUE(browser.eventually("document.getElementById('state').textContent === 'serving'"));
}

}  // namespace
}  // namespace patchbay
