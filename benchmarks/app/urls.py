"""No pages: the benchmark opens WebSockets only."""

urlpatterns: list[object] = []
