// `patchbay experiment` over the small model that comes along, and its report in a real browser.
#include <nlohmann/json.hpp>

#include "program.hpp"
#include "tests/support/browser.hpp"

namespace patchbay {
namespace {

using e2e::run_program;
using nlohmann::json;

const std::string kModel = PATCHBAY_SOURCE_DIR "/configs/quickstart/model";

const std::string kSpeed = "[measure.speed]\nprompt_tokens = 16\ndecode_tokens = 8\nrounds = 1\n";

// Three cells: as trained, another router, and other layers too. Answers of so many tokens at most.
std::string plan(const std::string& model, int max_tokens, const std::string& more = "") {
  return "name = \"Small </script> & quick\"\n[models.small]\npath = \"" + model +
         "\"\nrouter = \"grouped\"\n"
         "[models.gone]\npath = \"nowhere\"\noptional = true\n"
         "[base]\nengine.threads = 1\n"
         "[[matrix]]\n[matrix.axes]\n"
         "router = [{ name = \"own\" }, { name = \"two\", set = { router = { plugin = \"topk\", k = 2 } } },\n"
         "          { name = \"late\", set = { layer = [{ match = \"4-\", router = { plugin = \"topk\", k = 2 } }] } "
         "}]\n"
         "[measure.accuracy]\nproblems = \"" +
         kModel + "/problems.jsonl\"\nlimit = 4\nsamples = 2\nmax_tokens = " + std::to_string(max_tokens) +
         "\n"
         "[measure.text]\nfile = \"text\"\nseparator = \"---\"\n" +
         more;
}

class Experiment : public ::testing::Test {
 protected:
  void SetUp() override {
    make_model();
    e2e::write_text(dir_ / "x.toml", plan(model_, 16));
    e2e::write_text(dir_ / "text", "293 + 85: 3+5+0=8; 9+8+0=17---Compute 73 * 56. 73 * 50 = 3650, 73 * 6 = 438.");
  }
  [[nodiscard]] std::vector<std::string> command(const std::string& out) const {
    return {"experiment", dir_ / "x.toml", "--out", dir_ / out};
  }
  [[nodiscard]] std::vector<json> results(const std::string& out) const {
    std::vector<json> lines;
    std::istringstream in(e2e::read_text(dir_ / (out + "/results.jsonl")));
    for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
    return lines;
  }
  // Without what depends on the hour: seconds and speeds.
  static std::vector<json> quality(std::vector<json> lines) {
    for (json& line : lines) {
      line.erase("speed");
      line["accuracy"].erase("seconds");
      line["accuracy"].erase("tokens_per_second");
    }
    return lines;
  }
  // The same layers, router and tokens as kModel's with random weights, a hundredth of its size: for what does not ask
  // how good its answers are.
  void make_model() {
    json config = json::parse(e2e::read_text(kModel + "/config.json"));
    config.update(
        {{"hidden_size", 32}, {"intermediate_size", 48}, {"moe_intermediate_size", 16}, {"kv_lora_rank", 16}});
    e2e::write_text(dir_ / "config.json", config.dump());
    const auto made = run_program({"model", "make-random", "--quiet", "--like", dir_ / "config.json", "--out", model_});
    ASSERT_EQ(made.exit_code, 0) << made.err;
    for (const char* file :
         {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"})
      std::filesystem::copy(kModel + "/" + file, model_);
  }
  e2e::ScratchDir dir_;
  const std::string model_ = dir_ / "small";
};

TEST_F(Experiment, measures_every_cell_and_says_what_a_router_costs_that_the_model_was_not_trained_for) {
  e2e::write_text(dir_ / "x.toml", plan(kModel, 120, kSpeed));
  const auto run = run_program(command("out"));
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto lines = results("out");
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0]["cell"], "small");
  EXPECT_EQ(lines[1]["cell"], "small router=two");
  for (const json& line : lines) {
    EXPECT_EQ(line["accuracy"]["total"], 4) << line;
    EXPECT_GT(line["text"]["perplexity"], 1.0);
    EXPECT_GT(line["text"]["entropy_bits"], 0.0);
    EXPECT_GT(line["text"]["overlap"], 0.0);
    EXPECT_GT(line["speed"]["decode_tokens_per_second"], 0.0);
    EXPECT_GT(line["speed"]["first_token_ms"], 0.0);
    EXPECT_GT(line["model_facts"]["memory_bytes"], 1e6);
    EXPECT_EQ(line["accuracy"]["load"].size(), 5U);
    EXPECT_GE(line["accuracy"]["balance"]["max_over_mean"], 1.0);
    EXPECT_EQ(line["config"]["model"]["path"], kModel);
    EXPECT_EQ(line["accuracy"]["samples"].size(), 2U);
    EXPECT_FALSE(line["program"].get<std::string>().empty());
  }
  EXPECT_EQ(lines[0]["accuracy"]["right"], 4) << "the model's own router";
  EXPECT_FALSE(lines[0]["text"].contains("kl"));
  EXPECT_GT(lines[1]["text"]["kl"], 0.0);
  EXPECT_EQ(lines[1]["text"]["baseline"], "small");
  EXPECT_LT(lines[1]["model_facts"]["active_parameters"], lines[2]["model_facts"]["active_parameters"])
      << "fewer experts in fewer layers";
  EXPECT_EQ(lines[2]["model_facts"]["layers"][0]["router"], "grouped");
  EXPECT_EQ(lines[2]["model_facts"]["layers"][4]["router"], "topk");
  EXPECT_NE(run.err.find("gone is left out"), std::string::npos) << run.err;
  for (const char* part :
       {"| small ", "| small router=two * ",
        "* small router=two: this routing is not the one that the model was trained with (topk instead of grouped): ",
        "left out, since they are not there: gone"}) {
    EXPECT_NE(run.out.find(part), std::string::npos) << part << "\n" << run.out;
  }
  EXPECT_EQ(run.out, e2e::read_text(dir_ / "out/table.md"));
}

TEST_F(Experiment, killed_and_cut_off_within_a_line_it_goes_on_and_finds_the_same_as_a_whole_run_to_the_last_digit) {
  ASSERT_EQ(run_program(command("whole")).exit_code, 0);
  {
    e2e::RunningProgram first(command("cut"));
    for (int i = 0; i < 60'000 && results("cut").empty(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    first.signal(SIGKILL);
    EXPECT_EQ(first.wait().exit_code, 128 + SIGKILL);
  }
  const auto before = results("cut");
  ASSERT_GE(before.size(), 1U);
  ASSERT_LT(before.size(), 3U) << "it was over before it was killed";
  {
    std::ofstream torn(dir_ / "cut/results.jsonl", std::ios::app);
    torn << "{\"cell\":\"small rou";
  }
  const auto second = run_program(command("cut"));
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_NE(second.err.find("[1/3] small: known: "), std::string::npos) << second.err;
  EXPECT_EQ(results("cut")[0], before[0]) << "it was measured again";
  EXPECT_EQ(quality(results("cut")), quality(results("whole")));
  const std::string report = e2e::read_text(dir_ / "cut/report.html");
  const auto third = run_program(command("cut"));
  EXPECT_EQ(third.exit_code, 0);
  EXPECT_EQ(e2e::read_text(dir_ / "cut/report.html"), report);
  EXPECT_EQ(results("cut").size(), 3U);
}

TEST_F(Experiment, an_interrupt_ends_it_within_the_cell_with_a_report_of_what_there_is) {
  e2e::RunningProgram first(command("out"));
  for (int i = 0; i < 60'000 && results("out").empty(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  first.signal(SIGINT);
  const auto ended = first.wait();
  EXPECT_EQ(ended.exit_code, 130) << ended.err;
  EXPECT_NE(ended.err.find("the same command goes on"), std::string::npos) << ended.err;
  EXPECT_NE(ended.out.find("not measured yet: "), std::string::npos) << ended.out;
  EXPECT_FALSE(e2e::read_text(dir_ / "out/report.html").empty());
}

TEST_F(Experiment, a_cell_that_cannot_run_is_named_and_the_others_are_measured) {
  e2e::write_text(dir_ / "x.toml",
                  plan(model_, 16,
                       kSpeed + "[[matrix]]\nmeasure = \"speed\"\n[matrix.axes]\n"
                                "router = [{name = \"wide\", set = {router = {plugin = \"topk\", k = 99}}}]\n"));
  const auto run = run_program(command("out"));
  EXPECT_EQ(run.exit_code, 1) << run.err;
  EXPECT_NE(run.out.find("failed: small router=wide: "), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("| small "), std::string::npos) << run.out;
}

TEST_F(Experiment, a_wrong_file_is_one_clear_error) {
  e2e::write_text(dir_ / "x.toml", plan(model_, 16, kSpeed + "rouns = 3\n"));
  e2e::expect_one_clear_error(run_program(command("out")),
                              {"x.toml: line ", "column 9: measure.speed", "did you mean \"rounds\"?"});
  e2e::write_text(dir_ / "x.toml", plan(model_, 16));
  e2e::write_text(dir_ / "out", "a file, no folder");
  EXPECT_EQ(run_program(command("out")).exit_code, 1);
  EXPECT_EQ(run_program({"experiment", dir_ / "x.toml"}).exit_code, 2);
}

TEST_F(Experiment, only_what_follows_the_mark_is_predicted) {
  const auto tokens = [&](const std::string& out, const std::string& more) {
    e2e::write_text(dir_ / "x.toml",
                    "[models.small]\npath = \"" + model_ + "\"\n[measure.text]\nfile = \"text\"\n" + more);
    const auto run = run_program(command(out));
    EXPECT_EQ(run.exit_code, 0) << run.err << run.out;
    return run.exit_code == 0 ? results(out)[0]["text"]["tokens"].get<int>() : 0;
  };
  e2e::write_text(dir_ / "text", "1 + 1 = 2");
  const int all = tokens("all", "");
  EXPECT_GT(all, 2);
  EXPECT_EQ(tokens("none_before", "after = \"1 + 1 = \"\n"), 1);
  e2e::write_text(dir_ / "x.toml",
                  "[models.small]\npath = \"" + model_ + "\"\n[measure.text]\nfile = \"text\"\nafter = \"=>\"\n");
  const auto run = run_program(command("bad"));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.out.find("expected \"=>\" in every text (measure.text.after), got \"1 + 1 = 2\""), std::string::npos)
      << run.out;
}

TEST_F(Experiment, a_model_that_says_another_router_than_its_checkpoint_is_refused) {
  std::string text = plan(model_, 16);
  text.replace(text.find("\"grouped\""), 9, "\"hash\"");
  e2e::write_text(dir_ / "x.toml", text);
  const auto run = run_program(command("out"));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.out.find("models.small.router: expected \"grouped\", which the checkpoint asks for, got \"hash\""),
            std::string::npos)
      << run.out;
}

TEST_F(Experiment, the_report_draws_itself_without_a_network_and_fits_a_phone) {
  if (testing::Browser::program().empty()) GTEST_SKIP() << "no chromium";
  e2e::write_text(dir_ / "x.toml", plan(model_, 16, kSpeed));
  ASSERT_EQ(run_program(command("out")).exit_code, 0);
  const std::string page = e2e::read_text(dir_ / "out/report.html");
  EXPECT_EQ(page.find("src=\"http"), std::string::npos);
  EXPECT_EQ(page.find("<link"), std::string::npos);
  testing::Browser browser;
  const auto picture = [&](const std::string& name) {
    const char* folder = std::getenv("PATCHBAY_SCREENSHOTS");
    if (folder != nullptr)
      e2e::write_text(std::filesystem::path(folder) / (name + ".png.base64"), browser.screenshot());
  };
  for (const bool phone : {false, true}) {
    browser.be(phone ? 390 : 1280, phone ? 844 : 900, phone);
    browser.go("file://" + (dir_ / "out/report.html"));
    ASSERT_TRUE(
        browser.eventually("document.querySelectorAll('canvas').length === 5"));  // Pareto; heat and history, twice
    EXPECT_EQ(browser.evaluate("document.getElementById('name').textContent"), "Small </script> & quick");
    EXPECT_EQ(browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), true);
    EXPECT_EQ(browser.evaluate("[...document.querySelectorAll('canvas')].every((c) => new "
                               "Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size > 8)"),
              true)
        << "a chart is empty";
    EXPECT_EQ(browser.evaluate("document.querySelectorAll('#cells tbody tr').length"), 3);
    EXPECT_EQ(browser.evaluate("document.querySelectorAll('#cells .swapped').length"), 2);
    EXPECT_EQ(browser.evaluate("document.querySelectorAll('#costs li').length"), 2);
    EXPECT_EQ(
        browser.evaluate("document.querySelector('#right-detail .label').textContent.startsWith("
                         "'Not the router that this model was trained with: routed by topk instead of grouped.')"),
        true);
    EXPECT_EQ(browser.evaluate("document.querySelectorAll('#left-detail .sample').length"), 2);
    EXPECT_EQ(browser.evaluate("performance.getEntriesByType('resource').length"), 0);
    picture(phone ? "report_phone" : "report");
  }
  browser.evaluate(
      "(() => { const s = document.getElementById('left'); s.value = 2; s.dispatchEvent(new Event('change')); })()");
  EXPECT_EQ(browser.evaluate("document.querySelector('#left-detail h3').textContent"), "small router=late");
  EXPECT_EQ(browser.evaluate("document.querySelectorAll('canvas').length"), 5);
  EXPECT_TRUE(browser.problems().empty()) << browser.problems()[0];
}

}  // namespace
}  // namespace patchbay
