// Drives a fuzz entry point without libFuzzer: every file of a seed corpus, then deterministic mutations of them.
// A failure is a crash; the input under way is then printed by name and mutation number, and kept in a file.
//
//   yaml_fuzz CORPUS_DIR [MUTATIONS]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr size_t kMaxSize = 1 << 16;

// What a signal handler can reach: the input under way.
const std::string* current_input = nullptr;
const char* current_seed = "";
int current_mutation = 0;

void OnCrash(int signal) {
  std::fprintf(stderr, "crash on seed %s, mutation %d (0 is the seed itself); input kept in replay_crash.bin\n",
               current_seed, current_mutation);
  if (std::FILE* out = std::fopen("replay_crash.bin", "wb"); out != nullptr && current_input != nullptr) {
    std::fwrite(current_input->data(), 1, current_input->size(), out);
    std::fclose(out);
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void RunOne(const std::string& input) {
  current_input = &input;
  // A copy of exactly this size, so that a sanitizer sees a read past its end.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

// Engine outputs are fixed by the C++ standard; its distributions are not, hence the modulus.
class Mutator {
 public:
  explicit Mutator(const std::vector<std::string>& seeds) : seeds_(seeds) {}

  std::string Mutate(std::string text) {
    for (uint64_t edits = 1 + Below(4); edits > 0; --edits) {
      const size_t at = Below(text.size() + 1);
      const size_t length = std::min<size_t>(1 + Below(8), text.size() - at);
      switch (Below(7)) {
        case 0:  // a flipped bit
          if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << Below(8)));
          break;
        case 1:  // any byte
          text.insert(at, 1, static_cast<char>(Below(256)));
          break;
        case 2:
          text.erase(at, length);
          break;
        case 3:
          text.insert(at, text.substr(at, length));
          break;
        case 4: {  // a character that means something to a parser
          static constexpr char kSpecial[] = "\n\r\t :,-+.0919eE{}[]\"'#&*!|>%@`/\\\0";
          text.insert(at, 1, kSpecial[Below(sizeof(kSpecial))]);
          break;
        }
        case 5: {  // a piece of another seed
          const std::string& other = seeds_[Below(seeds_.size())];
          const size_t from = Below(other.size() + 1);
          text.insert(at, other.substr(from, Below(64)));
          break;
        }
        default:
          text.resize(at);
          break;
      }
      if (text.size() > kMaxSize) text.resize(kMaxSize);
    }
    return text;
  }

 private:
  uint64_t Below(uint64_t n) { return engine_() % n; }

  const std::vector<std::string>& seeds_;
  std::mt19937_64 engine_{1};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: %s CORPUS_DIR [MUTATIONS]\n", argv[0]);
    return 2;
  }
  const int mutations = argc == 3 ? std::atoi(argv[2]) : 5000;
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1], error)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  if (error || files.empty()) {
    std::fprintf(stderr, "no seed files in %s\n", argv[1]);
    return 2;
  }
  std::sort(files.begin(), files.end());
  std::vector<std::string> names, seeds;
  for (const auto& file : files) {
    std::ifstream in(file, std::ios::binary);
    names.push_back(file.filename().string());
    seeds.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }

  for (int signal : {SIGABRT, SIGSEGV, SIGFPE, SIGILL, SIGBUS}) std::signal(signal, OnCrash);
  current_seed = "(empty input)";
  RunOne("");
  for (size_t i = 0; i < seeds.size(); ++i) {
    current_seed = names[i].c_str();
    RunOne(seeds[i]);
  }
  Mutator mutator(seeds);
  for (int i = 1; i <= mutations; ++i) {
    const size_t seed = static_cast<size_t>(i) % seeds.size();
    current_seed = names[seed].c_str();
    current_mutation = i;
    RunOne(mutator.Mutate(seeds[seed]));
  }
  std::printf("%zu seeds and %d mutations went through\n", seeds.size(), mutations);
  return 0;
}
