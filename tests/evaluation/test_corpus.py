"""BLEU as sacrebleu has it, and a corpus metric spread over its samples."""

import math
import random
import statistics

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowtune.evaluation import evaluate, metric_named, misfits, standard_error
from narrowtune.evaluation.corpus import contributions, corpus_bleu, sentence_bleu
from narrowtune.evaluation.generation import Answer
from tests.evaluation.test_graded_metrics import example
