import DefaultTheme from 'vitepress/theme';
import { h } from 'vue';
import BenchmarkPlots from './BenchmarkPlots.vue';
import LivePage from './LivePage.vue';
import SpeedPicture from './SpeedPicture.vue';
import './style.css';
import type { Theme } from 'vitepress';

export default {
  extends: DefaultTheme,
  Layout: () => h(DefaultTheme.Layout, null, { 'home-hero-image': () => h(SpeedPicture) }),
  enhanceApp({ app }) {
    app.component('BenchmarkPlots', BenchmarkPlots);
    app.component('LivePage', LivePage);
    app.component('SpeedPicture', SpeedPicture);
  },
} satisfies Theme;
