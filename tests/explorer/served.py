"""What the explorer's tests look at: small models with their sweeps, and servers of them."""
import random
import threading
import time
from contextlib import contextmanager

import uvicorn
from small_llama import VOCABULARY, sentence, trained
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerFast
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.composites import default_composite
from crp.concepts import ChannelConcept
from crp.demo.digits import DIGIT_LAYERS, digit_datasets, train_digit_network
from crp.explorer.asking import ask
from crp.explorer.server import create_app
from crp.explorer.serving import listen
from crp.neurons import rank
from crp.text import Corpus
from crp.trust import trust_report
from crp.visualization import FeatureVisualization

SAMPLES = 400
LAYER = DIGIT_LAYERS[-1]
TEXT_LAYERS = ["model.layers.0.mlp.down_proj:in", "model.layers.1.mlp.down_proj:in"]


def digits(path):
    """A model that reads digits, its sweep with all that a store can keep, and its rules."""
    training, _ = digit_datasets()
    model = train_digit_network(training, epochs=4)
    composite = default_composite(model)
    fv = FeatureVisualization(CondAttribution(model), Subset(training, range(SAMPLES)), DIGIT_LAYERS, path=path)
    store = fv.run(composite)
    fv.find_patterns(LAYER, "relevance", min_pattern_size=8).save(store)
    fv.find_patterns(DIGIT_LAYERS[1], "activation", min_pattern_size=8).save(store)
    for by in ("relevance", "anova"):
        rank(store, by=by, layers=LAYER, n_bootstrap=10).save(store)
    trust_report(fv, LAYER, composite=composite, samples=16, steps=4, random=2, draws=1, verbose=False)
    return fv, composite


def sentences(path, steps=60, count=40):
    """A small Llama, its sweep with a row for each token, and its rules."""
    model = trained(0, steps)
    words = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words)))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rng = random.Random(5)
    found = [sentence(rng) for _ in range(count)]
    corpus = Corpus([words[:7] for words in found], tokenizer, targets=[words[7] for words in found])
    fv = FeatureVisualization(
        CondAttribution(model, output=lambda output: output.logits[:, -1]), corpus,
        {layer: ChannelConcept(-1) for layer in TEXT_LAYERS}, path=path, class_names=VOCABULARY,
        collate_fn=corpus.collate,
    )
    composite = EpsilonPlus()
    fv.run(composite, rows="positions")
    return fv, composite


def ask_for(sources):
    """A function path -> answer of a server, without a socket; work of the model is waited for."""
    app = create_app(sources)

    def answer(path, method="GET", body=b""):
        return ask(app, path, method, body, patience=60)

    return answer


@contextmanager
def serving(sources, token=None):
    """The address of a server that runs within the context."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(sources, token), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)
    listening.close()
